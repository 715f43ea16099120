"""Notices that a file is opened, whatever function opens it.

Python's audit events cover `open`, `os.open` and all libraries that open files through Python. Functions that
open files in compiled code raise no such event. Those that are common in this field are wrapped as soon as
their module is imported.
"""

from __future__ import annotations

import functools
import importlib.abc
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Literal

Event = Literal["read", "written", "appended", "program", "library", "connection"]
"""Kinds of events:

- "read": a file is opened for reading, or a folder is passed to a function that reads the files in it.
- "written": a file is created or emptied.
- "appended": an existing file is opened for reading and appending, as logs are.
- "program": another program is started.
- "library": a shared library is loaded by its bare name.
- "connection": a connection to another machine is opened.
"""

Listener = Callable[[Event, str], None]
"""Receives events with a path or a name. Its exceptions do not reach the code that causes the event."""


_Reader = tuple[str, int, str]
"""A function or a class that opens a file in compiled code.

Its dotted name in its module, the index of the path among the positional arguments, and the name of that
argument.
"""

_SAFE_OPEN: _Reader = ("safe_open", 0, "filename")

_PARQUET_METADATA: Sequence[_Reader] = (("read_schema", 0, "where"), ("read_metadata", 0, "where"))

_READERS: dict[str, Sequence[_Reader]] = {
    "safetensors": [_SAFE_OPEN],
    "safetensors.torch": [_SAFE_OPEN],
    "safetensors.numpy": [_SAFE_OPEN],
    "torch": [
        ("_C.import_ir_module", 1, "filename"),  # torch.jit.load
        ("_C.PyTorchFileReader.__init__", 1, "name"),  # torch.export.load, torch.load
        ("from_file", 0, "filename"),
        ("ops.aten.from_file", 0, "filename"),
        ("UntypedStorage.from_file", 0, "filename"),
    ],
    # all functions of torchvision.io that take the path of an image call this operator
    "torchvision.io.image": [("torch.ops.image.read_file", 0, "filename")],
    "pyarrow": [("memory_map", 0, "path"), ("input_stream", 0, "source"), ("OSFile", 0, "path")],
    "pyarrow.parquet.core": [
        ("ParquetFile.__init__", 1, "source"),
        ("ParquetDataset.__init__", 1, "path_or_paths"),
        *_PARQUET_METADATA,
    ],
    "pyarrow.parquet": _PARQUET_METADATA,  # it binds the same functions to names of its own
    "pyarrow.dataset": [("dataset", 0, "source")],
    "pyarrow.feather": [("read_table", 0, "source")],
    "pyarrow.csv": [("read_csv", 0, "input_file"), ("open_csv", 0, "input_file")],
    "pyarrow.json": [("read_json", 0, "input_file")],
    "pyarrow.orc": [("ORCFile.__init__", 1, "source")],
    "pyarrow.ipc": [("open_file", 0, "source"), ("open_stream", 0, "source")],
}


def install(listener: Listener, running: Sequence[object]) -> None:
    """Send all events from now on to a listener, except while `running` (always the same object) is empty.

    Call this once in a process, since an audit hook cannot be removed.
    """
    handlers = _handlers(listener)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not running:  # a process has many audit events, and most are of no interest: this must be fast
            return
        if (handler := handlers.get(event)) is not None:
            _safely(handler, *arguments)

    sys.addaudithook(hook)
    sys.meta_path.insert(0, _WrapOnImport(listener))
    for name in _READERS:
        if name in sys.modules:
            _wrap_all(name, sys.modules[name], listener)


def _safely(handle: Callable[..., None], *arguments: Any) -> None:
    """Call and ignore exceptions: in an audit hook they would stop the code that is watched."""
    with suppress(Exception):
        handle(*arguments)


def _handlers(listener: Listener) -> dict[str, Callable[..., None]]:
    """The function that is called for each of Python's audit events, with its arguments."""

    def program(command: Any, *_: Any) -> None:
        words = os.fsdecode(command[0] if isinstance(command, list | tuple) else command).split()
        listener("program", os.path.basename(words[0]) if words else "")

    def library(name: Any) -> None:
        if name is not None:
            path = os.fsdecode(name)
            listener("read" if os.path.dirname(path) else "library", path)

    def connect(_: Any, address: Any) -> None:
        if isinstance(address, tuple):  # the address of a local (Unix) socket is a path
            listener("connection", "")

    return {
        "open": functools.partial(_opened, listener),
        "sqlite3.connect": lambda path, *_: listener("read", os.fsdecode(path)),
        "subprocess.Popen": lambda executable, command, *_: program(executable or command),
        "os.system": program,
        "os.exec": program,
        "os.posix_spawn": program,
        "os.spawn": lambda _, path, *rest: program(path),
        "ctypes.dlopen": library,
        "socket.connect": connect,
    }


def _opened(listener: Listener, path: Any, mode: Any, flags: int) -> None:
    if isinstance(path, int):  # a file descriptor; systems without /proc raise OSError here
        path = os.readlink(f"/proc/self/fd/{path}")
        if not os.path.isabs(path):
            return  # a pipe or a socket
    path = os.fsdecode(path)
    if os.path.isdir(path):
        return  # opening a file in it is an event of its own
    if flags & (os.O_WRONLY | os.O_RDWR) and (flags & os.O_TRUNC or not os.path.exists(path)):
        listener("written", path)
    elif flags & os.O_RDWR and flags & os.O_APPEND:
        listener("appended", path)
    elif not flags & os.O_WRONLY:
        listener("read", path)


@dataclass(eq=False)
class _WrapOnImport(importlib.abc.MetaPathFinder):
    """Wraps readers right after the import of their module, before other modules can import them from it."""

    listener: Listener

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in _READERS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec and spec.loader:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _wrap_all(fullname, module, self.listener)

            loader.exec_module = exec_module
        return spec


def _wrap_all(name: str, module: ModuleType, listener: Listener) -> None:
    for reader in _READERS[name]:
        _safely(_wrap, reader, module, listener)  # other releases of the library may lack the function


def _wrap(reader: _Reader, module: ModuleType, listener: Listener) -> None:
    name, position, keyword = reader
    *parents, last = name.split(".")
    holder: Any = functools.reduce(getattr, parents, module)
    original = getattr(holder, last)
    if hasattr(original, "_notices_files"):
        return  # imported from another module, where it is already wrapped

    def notice(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        argument = keywords.get(keyword)
        if argument is None and len(arguments) > position:
            argument = arguments[position]
        for path in argument if isinstance(argument, list | tuple) else [argument]:
            if isinstance(path, str | bytes | os.PathLike):  # not an open file
                listener("read", os.fsdecode(path))

    if inspect.isclass(original) and last != "safe_open":
        replacement: Any = _subclass(original, notice)
    else:

        @functools.wraps(original)
        def replacement(*arguments: Any, **keywords: Any) -> Any:
            _safely(notice, arguments, keywords)
            return original(*arguments, **keywords)

        replacement._notices_files = True
        for overload in getattr(original, "overloads", list)():  # of a torch operator; callers use them too
            setattr(replacement, overload, getattr(original, overload))
        # let TorchScript compile calls of the replacement like calls of the operator
        if (builtins := sys.modules.get("torch.jit._builtins")) and (op := builtins._find_builtin(original)):
            builtins._register_builtin(replacement, op)
        if inspect.isclass(holder) and not last.startswith("__"):
            replacement = staticmethod(replacement)
    setattr(holder, last, replacement)


def _subclass(original: type, notice: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> type:
    """A subclass that replaces a compiled class, whose own constructor cannot be replaced."""

    class Noticing(original):  # type: ignore[misc]
        _notices_files = True

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            _safely(notice, arguments, keywords)
            super().__init__()

    Noticing.__name__, Noticing.__qualname__ = original.__name__, original.__qualname__
    Noticing.__module__, Noticing.__doc__ = original.__module__, original.__doc__
    return Noticing
