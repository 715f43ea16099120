"""What each plugin opened in this process, and which plugins a result depends on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from benchmark.files import shown
from benchmark.opened_files import exempt, readers

if TYPE_CHECKING:
    from benchmark.plugin import Config, Plugin

_HERE = os.path.dirname(__file__) + os.sep

_ASK_THE_SYSTEM = ("ctypes.util", "platform", "uuid")
"""Modules of Python that start programs such as `uname` to learn what the machine is."""

_COARSE = 0.01
"""Seconds by which the time of a file may lag behind the clock: file systems count in ticks of the kernel."""


class Opened:
    """What one plugin opened in this process that is no parameter of it.

    All instances of a plugin share one record: a module may keep what it read once for all of them.

    Attributes:
        title: The kind and the name of the plugin.
    """

    def __init__(self, title: str, modules: Sequence[str] = ()) -> None:
        self.title = title
        self._modules = dict.fromkeys(modules)
        self._paths: dict[str, None] = {}
        self._others: dict[str, None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Opened:
        return self  # a copy of a plugin is the same plugin

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    @property
    def is_empty(self) -> bool:
        return not self._paths and not self._others

    def add(self, path: str) -> None:
        """A file, by its absolute path."""
        self._paths[path] = None

    def add_other(self, words: str) -> None:
        """Anything else whose content is unknown, such as `the program convert`."""
        self._others[words] = None

    def add_module(self, name: str) -> None:
        """A module whose code is part of the plugin, such as the file of a factory."""
        self._modules[name] = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, those that its modules opened when they were imported among them.

        The sources that the plugin's fingerprint covers are left out: they are in the keys. A source that
        the plugin imports in another way than with an import statement is in no key.
        """
        found = {path: None for record in self._records for path in record._paths}
        if any(exempt.is_source(path) for path in found):
            covered = {os.path.realpath(source) for source in self._sources.values()}
            found = {path: None for path in found if os.path.realpath(path) not in covered}
        return tuple(map(Path, found))

    @property
    def others(self) -> tuple[str, ...]:
        """What else it used, in words."""
        return tuple({words: None for record in self._records for words in record._others})

    @property
    def names(self) -> tuple[str, ...]:
        """Everything in short: paths below the current folder as they are from there, else names alone."""
        return (*(shown(path, public=True) for path in self.paths), *self.others)

    @property
    def _records(self) -> list[Opened]:
        modules = {**self._modules, **self._sources} if _IMPORTS else {}
        imports = (_IMPORTS.get(module) for module in modules)
        return [self, *(record for record in imports if record is not None)]

    @property
    def _sources(self) -> dict[str, Path]:
        """The modules that the fingerprints of its modules cover, each with its file."""
        from benchmark.code import sources  # which imports this package
        from benchmark.errors import UserError

        found: dict[str, Path] = {}
        for number, module in enumerate(list(self._modules)):
            file = getattr(sys.modules.get(module), "__file__", None)
            if file is None or not exempt.is_source(file):
                continue
            if number and exempt.is_library_file(file):  # such as torch, of which all plugins are made
                continue
            with suppress(UserError), unwatched():  # the file is gone, or is no longer Python
                found |= sources(Path(file), module)
        return found


class Used:
    """The plugins whose code ran while a result was made."""

    def __init__(self) -> None:
        self._records: dict[Opened, None] = {}

    def add(self, record: Opened) -> None:
        self._records[record] = None

    @property
    def opened(self) -> dict[str, list[str]]:
        """What they opened, by the title of the plugin; plugins that opened nothing are left out."""
        found: dict[str, set[str]] = {}
        for record in self._records:
            found.setdefault(record.title, set()).update(record.names)
        return {title: sorted(names) for title, names in sorted(found.items()) if names}


_PLUGINS: dict[tuple[Any, ...], Opened] = {}
_IMPORTS: dict[str, Opened] = {}
"""What modules opened while they were imported, by the module's name."""

_used: ContextVar[Used | None] = ContextVar("used", default=None)
_innermost: ContextVar[_Call | None] = ContextVar("innermost", default=None)
_running: list[_Call] = []
"""All calls that run now: what a thread of a plugin's own opens is of the call that began last."""

_written: dict[str, float] = {}
"""When this process created or emptied a file while a plugin ran, by path."""


class _Call:
    """A piece of code whose opened files go to `record`; to nobody where that is None."""

    __slots__ = ("_configs", "_declared", "_of_plugin", "_own", "_token", "began", "fetched", "record")

    def __init__(
        self,
        record: Opened | None,
        configs: Sequence[Config] = (),
        own: Collection[Path] = (),
        of_plugin: bool = True,
    ) -> None:
        self.record = record
        self._of_plugin = of_plugin
        self._configs = configs
        self._own = own
        self._declared: tuple[str, ...] | None = None
        self.fetched = False

    def __enter__(self) -> Self:
        _install()
        self.began = time.time() - _COARSE
        used = _used.get()
        if used is not None and self.record is not None and self._of_plugin:
            used.add(self.record)
        self._token = _innermost.set(self)
        _running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _running.remove(self)
        _innermost.reset(self._token)

    def allows(self, path: str) -> bool:
        """Whether a file is a declared parameter, or belongs to the plugin in another way."""
        if self._declared is None:
            files = [file for config in self._configs for file in config.files().values()]
            self._declared = tuple(os.path.realpath(file) for file in (*files, *self._own))
        real = os.path.realpath(path)
        return any(real == one or real.startswith(one + os.sep) for one in self._declared)


def watching(
    kind: str, plugin: Plugin[Any] | type[Plugin[Any]], *configs: Config, own: Collection[Path] = ()
) -> _Call:
    """A context in which the code of a plugin runs: what it opens is recorded as opened by the plugin.

    Args:
        kind: Its kind.
        plugin: The plugin, or its class where there is no instance yet.
        configs: The configurations whose declared files it may open; by default its own.
        own: Files and folders that it may open besides, such as those of a data set.
    """
    if not configs and not isinstance(plugin, type):
        configs = (plugin.config,)
    return _Call(opened_by(kind, plugin, *configs), configs, own)


def unwatched() -> _Call:
    """A context in which files may be opened: by the harness, or because they are in the keys anyway."""
    return _Call(None)


@contextmanager
def record_import(module: str) -> Iterator[None]:
    """Record what is opened while a module is imported: it belongs to all plugins that import the module.

    A plugin whose code runs already, such as a target that calls a factory, gets the module as its own.
    """
    outer = _innermost.get()
    if outer is not None and outer.record is not None:
        outer.record.add_module(module)
    record = _IMPORTS.get(module) or Opened(module)
    with _Call(record, of_plugin=False):
        yield
    if not record.is_empty:
        _IMPORTS[module] = record


@contextmanager
def record_use() -> Iterator[Used]:
    """Note which plugins run while this context is open."""
    token = _used.set(used := Used())
    try:
        yield used
    finally:
        _used.reset(token)


def opened_by(kind: str, plugin: Plugin[Any] | type[Plugin[Any]], *configs: Config) -> Opened:
    """The record of a plugin; of a given classifier, which may be anybody's code, one per configuration."""
    own = None if isinstance(plugin, type) else vars(plugin).get("_opened")
    if isinstance(own, Opened):
        return own
    cls = plugin if isinstance(plugin, type) else type(plugin)
    given = getattr(cls, "rests_on", None) is not None and not getattr(cls, "trainable", True)
    key = (kind, cls, *(config.model_dump_json() for config in configs if given))
    if key not in _PLUGINS:
        _PLUGINS[key] = Opened(f"{kind} {cls.name}", tuple({base.__module__: None for base in cls.__mro__}))
    if not isinstance(plugin, type):
        vars(plugin)["_opened"] = _PLUGINS[key]
    return _PLUGINS[key]


class _Recorder:
    """Adds what is opened to the record of the plugin whose code runs."""

    running: ClassVar[list[Any]] = _running

    @staticmethod
    def _call() -> _Call | None:
        call = _innermost.get() or (_running[-1] if _running else None)
        return None if call is None or call.record is None else call

    def read(self, path: str) -> None:
        call = self._call()
        if call is None or call.record is None:
            return
        path = exempt.source_of(
            os.path.realpath(path) if path.startswith("/proc/") else os.path.abspath(path)
        )
        if exempt.is_library_file(path) or not os.path.exists(path):
            return
        if path not in call.record and (_own_work(path, call) or call.allows(path)):
            return
        call.record.add(path)
        for module in _being_imported():
            _IMPORTS.setdefault(module, Opened(module)).add(path)

    def written(self, path: str) -> None:
        _written[os.path.realpath(path)] = time.time()

    def appended(self, path: str) -> None:
        if os.path.realpath(path) not in _written:  # a log that this process began is its own
            self.read(path)

    def started(self, program: str) -> None:
        self._other(f"the program {program}")

    def loaded(self, library: str) -> None:
        self._other(f"the library {library}")

    def _other(self, words: str) -> None:
        call = self._call()
        if call is not None and call.record is not None and not _asked_by_a_library():
            call.record.add_other(words)

    def connected(self) -> None:
        call = self._call()
        if call is not None:
            call.fetched = True


def _own_work(path: str, call: _Call) -> bool:
    """Whether the plugin wrote the file in this call, or the process a temporary one.

    Compiled code writes without an event, so the time of the file decides as well. What was written after
    another machine was asked may come from that machine.
    """
    if call.fetched:
        return False
    written = _written.get(os.path.realpath(path), 0.0)
    if exempt.is_temporary(path) and written:
        return True
    return max(written, os.stat(path).st_ctime) >= call.began


def _being_imported() -> Iterator[str]:
    """The modules whose own statements run now: all plugins that import them depend on what these read.

    Only the first plugin that imports a module runs them.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>" and (name := frame.f_globals.get("__name__")) != "__main__":
            yield str(name)
        frame = frame.f_back


def _asked_by_a_library() -> bool:
    """Whether it was a library's code that started a program or loaded a library, and not a plugin's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if frame.f_globals.get("__name__") in _ASK_THE_SYSTEM:
            return True
        if not path.startswith(_HERE) and not exempt.is_standard_library(path):
            return exempt.is_library_file(path)
        frame = frame.f_back
    return True


@cache
def _install() -> None:
    readers.install(_Recorder())


def merged(parts: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Several accounts of what plugins opened, as one."""
    found: dict[str, set[str]] = {}
    for part in parts:
        for title, names in part.items():
            found.setdefault(title, set()).update(names)
    return {title: sorted(names) for title, names in sorted(found.items())}
