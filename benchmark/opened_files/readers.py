"""Noticing that a file is opened, whatever opens it.

Python's audit events cover `open`, `os.open` and all libraries that open files through Python. Readers that
open files in compiled code raise no such event: those that are common in this field are wrapped, each as
soon as its module is imported.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Protocol


class Listener(Protocol):
    """What is called for each event. Nothing that it raises reaches the code that opens the file.

    Attributes:
        running: Empty as long as nothing has to be recorded; always the same list.
    """

    running: ClassVar[list[Any]]

    def read(self, path: str) -> None:
        """A file is opened for reading, or a folder is given to a reader that looks into it."""

    def written(self, path: str) -> None:
        """A file is created or emptied."""

    def appended(self, path: str) -> None:
        """A file that exists is opened to be read and to be made longer, as a log is."""

    def started(self, program: str) -> None:
        """Another program is started."""

    def loaded(self, library: str) -> None:
        """A shared library is loaded by its bare name."""

    def connected(self) -> None:
        """A connection to another machine is opened."""


@dataclass(frozen=True)
class _Reader:
    """A function or a class that opens a file in compiled code.

    Attributes:
        name: Where it is in its module, with dots.
        position: Place of the path among the positional arguments.
        keyword: Name of that argument.
    """

    name: str
    position: int
    keyword: str


_TORCH = (
    _Reader("_C.import_ir_module", 1, "filename"),  # torch.jit.load
    _Reader("_C.PyTorchFileReader.__init__", 1, "name"),  # torch.export.load, torch.load
    _Reader("from_file", 0, "filename"),
    _Reader("ops.aten.from_file", 0, "filename"),
    _Reader("UntypedStorage.from_file", 0, "filename"),
)

_SAFE_OPEN = (_Reader("safe_open", 0, "filename"),)

_PARQUET = (
    _Reader("ParquetFile.__init__", 1, "source"),
    _Reader("ParquetDataset.__init__", 1, "path_or_paths"),
)

_PARQUET_ABOUT = (_Reader("read_schema", 0, "where"), _Reader("read_metadata", 0, "where"))

_READERS: dict[str, Sequence[_Reader]] = {
    "safetensors": _SAFE_OPEN,
    "safetensors.torch": _SAFE_OPEN,
    "safetensors.numpy": _SAFE_OPEN,
    "torch": _TORCH,
    # every function of torchvision.io that takes an image's path goes through this operator
    "torchvision.io.image": (_Reader("torch.ops.image.read_file", 0, "filename"),),
    "pyarrow": (
        _Reader("memory_map", 0, "path"),
        _Reader("input_stream", 0, "source"),
        _Reader("OSFile", 0, "path"),
    ),
    "pyarrow.parquet.core": (*_PARQUET, *_PARQUET_ABOUT),
    "pyarrow.parquet": _PARQUET_ABOUT,  # which has the same functions under names of its own
    "pyarrow.dataset": (_Reader("dataset", 0, "source"),),
    "pyarrow.feather": (_Reader("read_table", 0, "source"),),
    "pyarrow.csv": (_Reader("read_csv", 0, "input_file"), _Reader("open_csv", 0, "input_file")),
    "pyarrow.json": (_Reader("read_json", 0, "input_file"),),
    "pyarrow.orc": (_Reader("ORCFile.__init__", 1, "source"),),
    "pyarrow.ipc": (_Reader("open_file", 0, "source"), _Reader("open_stream", 0, "source")),
}


def install(listener: Listener) -> None:
    """Notice from now on what is opened. An audit hook cannot be removed, so call this once in a process.

    Args:
        listener: What is called while its `running` is not empty.
    """
    events = _events(listener)
    running = listener.running

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not running:  # most events of a process are of no interest, and this has to cost nothing
            return
        handle = events.get(event)
        if handle is not None:
            _safely(handle, *arguments)

    sys.addaudithook(hook)
    sys.meta_path.insert(0, _WrapOnImport(listener))
    for name in _READERS:
        module = sys.modules.get(name)
        if module is not None:
            _wrap_all(name, module, listener)


def _safely(handle: Callable[..., None], *arguments: Any) -> None:
    """Call, whatever comes of it: an exception in an audit hook would stop the code that it watches."""
    try:
        handle(*arguments)
    except Exception:
        return


def _events(listener: Listener) -> dict[str, Callable[..., None]]:
    def program(command: Any, *_: Any) -> None:
        listener.started(_first_word(command))

    def popen(executable: Any, command: Any, *_: Any) -> None:
        listener.started(_first_word(executable or command))

    def connect(_: Any, address: Any) -> None:
        if isinstance(address, tuple):  # a socket of this machine has a path for its address
            listener.connected()

    def library(name: Any) -> None:
        if name is None:
            return
        path = os.fsdecode(name)
        if os.path.dirname(path):
            listener.read(path)
        else:
            listener.loaded(path)

    return {
        "open": functools.partial(_opened, listener),
        "sqlite3.connect": lambda path, *_: listener.read(os.fsdecode(path)),
        "subprocess.Popen": popen,
        "os.system": program,
        "os.exec": program,
        "os.posix_spawn": program,
        "os.spawn": lambda _, path, *rest: program(path),
        "ctypes.dlopen": library,
        "socket.connect": connect,
    }


def _opened(listener: Listener, path: Any, mode: Any, flags: int) -> None:
    if isinstance(path, int):  # a descriptor: where the system says of which file
        path = os.readlink(f"/proc/self/fd/{path}")
        if not os.path.isabs(path):
            return  # a pipe or a socket
    path = os.fsdecode(path)
    if os.path.isdir(path):
        return  # what is in it is opened by itself
    if flags & (os.O_WRONLY | os.O_RDWR) and (flags & os.O_TRUNC or not os.path.exists(path)):
        listener.written(path)
    elif flags & os.O_RDWR and flags & os.O_APPEND:
        listener.appended(path)
    elif not flags & os.O_WRONLY:
        listener.read(path)


def _first_word(command: Any) -> str:
    if isinstance(command, list | tuple):
        command = command[0]
    words = os.fsdecode(command).split()
    return os.path.basename(words[0]) if words else ""


class _WrapOnImport(importlib.abc.MetaPathFinder):
    """Wraps readers right after the import of their module, before anybody can take them from it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _READERS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _wrap_all(fullname, module, self._listener)

            loader.exec_module = exec_module
        return spec


def _wrap_all(name: str, module: ModuleType, listener: Listener) -> None:
    for reader in _READERS[name]:
        _safely(_wrap, reader, module, listener)  # another release may have no such function


def _wrap(reader: _Reader, module: ModuleType, listener: Listener) -> None:
    *path, last = reader.name.split(".")
    holder: Any = functools.reduce(getattr, path, module)
    original = getattr(holder, last)
    if hasattr(original, "_notices_files"):
        return  # taken from a module in which it is wrapped already

    def notice(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if listener.running:
            given = keywords.get(reader.keyword)
            if given is None and len(arguments) > reader.position:
                given = arguments[reader.position]
            for one in _paths(given):
                listener.read(one)

    if inspect.isclass(original) and last not in ("safe_open",):
        replacement: Any = _subclass(original, notice)
    else:

        @functools.wraps(original)
        def replacement(*arguments: Any, **keywords: Any) -> Any:
            _safely(notice, arguments, keywords)
            return original(*arguments, **keywords)

        replacement._notices_files = True
        for overload in getattr(original, "overloads", list)():  # of an operator; code calls these as well
            setattr(replacement, overload, getattr(original, overload))
        _keep_scriptable(original, replacement)
        if inspect.isclass(holder) and not last.startswith("__"):
            replacement = staticmethod(replacement)
    setattr(holder, last, replacement)


def _keep_scriptable(original: Any, replacement: Any) -> None:
    """Let TorchScript compile calls of the replacement, as it does those of one of torch's own operators."""
    builtins = sys.modules.get("torch.jit._builtins")
    operator = builtins and builtins._find_builtin(original)
    if builtins and operator:
        builtins._register_builtin(replacement, operator)


def _subclass(original: type, notice: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> type:
    """A class in place of a compiled one, whose own constructor cannot be replaced."""

    class Noticed(original):  # type: ignore[misc]
        _notices_files = True

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            _safely(notice, arguments, keywords)
            super().__init__()

    Noticed.__name__, Noticed.__qualname__ = original.__name__, original.__qualname__
    Noticed.__module__, Noticed.__doc__ = original.__module__, original.__doc__
    return Noticed


def _paths(given: Any) -> Iterator[str]:
    """The paths in an argument that may also be an open file, or several paths."""
    for one in given if isinstance(given, list | tuple) else [given]:
        if isinstance(one, str | bytes | os.PathLike):
            yield os.fsdecode(one)
