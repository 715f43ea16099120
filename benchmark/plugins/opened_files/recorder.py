"""Records what plugins open while their code runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from benchmark.plugins.opened_files import exempt, readers
from benchmark.plugins.opened_files.records import IMPORT_RECORDS, OpenedFiles, UsedPlugins, opened_by

if TYPE_CHECKING:
    from benchmark.plugins.plugin import Config, Plugin

_HERE = os.path.dirname(__file__) + os.sep

_CLOCK_LAG = 0.01
"""Seconds by which file times may lag behind the clock: file systems count in ticks of the kernel."""

_written: dict[str, float] = {}
"""By path: when this process created or emptied a file while plugin code ran."""


@dataclass(eq=False)
class _Execution:
    """A context in which one piece of code runs.

    Attributes:
        record: Where to record what the code opens; None records nothing.
        configs: Configurations whose declared files the code may open.
        own: Other files and folders that it may open.
        of_plugin: Whether it is the code of a plugin, and not the import of a module.
        fetched: Whether it has connected to another machine.
    """

    record: OpenedFiles | None
    configs: Sequence[Config] = ()
    own: Collection[Path] = ()
    of_plugin: bool = True
    fetched: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        _install()
        self._began = time.time() - _CLOCK_LAG
        used = _used.get()
        if used is not None and self.record is not None and self.of_plugin:
            used.add(self.record)
        self._token = _innermost.set(self)
        _running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _running.remove(self)
        _innermost.reset(self._token)

    @cached_property
    def _declared(self) -> list[str]:
        files = [file for config in self.configs for file in config.files().values()]
        return [os.path.realpath(file) for file in (*files, *self.own)]

    def declares(self, path: str) -> bool:
        """Whether a file is a declared parameter, or lies in a folder that belongs to the plugin."""
        real = os.path.realpath(path)
        return any(real == declared or real.startswith(declared + os.sep) for declared in self._declared)

    def wrote(self, path: str) -> bool:
        """Whether this code wrote the file, or the file is a temporary one that the process wrote.

        Compiled code raises no event when it writes, so the time of the file is compared as well. After a
        connection to another machine the answer is False, since the content may come from that machine.
        """
        if self.fetched:
            return False
        written = _written.get(os.path.realpath(path), 0.0)
        if exempt.is_temporary(path) and written:
            return True
        return max(written, os.stat(path).st_ctime) >= self._began


_used: ContextVar[UsedPlugins | None] = ContextVar("used", default=None)
_innermost: ContextVar[_Execution | None] = ContextVar("innermost", default=None)
_running: list[_Execution] = []
"""All code that runs now. In a thread that a plugin started, events count for the code that began last."""


def watching(
    kind: str, plugin: Plugin[Any] | type[Plugin[Any]], *configs: Config, own: Collection[Path] = ()
) -> _Execution:
    """A context for the code of a plugin: what it opens is recorded as opened by the plugin.

    Args:
        kind: Its kind.
        plugin: The plugin, or its class if there is no instance yet.
        configs: As in `_Execution`; by default that of the plugin.
        own: As in `_Execution`, such as the files of a data set.
    """
    if not configs and not isinstance(plugin, type):
        configs = (plugin.config,)
    return _Execution(opened_by(kind, plugin, *configs), configs, own)


def unwatched() -> _Execution:
    """A context in which nothing is recorded, for files that the harness opens or that are in keys anyway."""
    return _Execution(None)


@contextmanager
def record_import(module: str) -> Iterator[None]:
    """A context for the import of a module: what it opens counts for all plugins that import the module.

    If the code of a plugin is running, such as a target that calls a factory, the module becomes part of it.
    """
    outer = _innermost.get()
    if outer is not None and outer.record is not None:
        outer.record.add_module(module)
    record = IMPORT_RECORDS.get(module) or OpenedFiles(module)
    with _Execution(record, of_plugin=False):
        yield
    if not record.is_empty:
        IMPORT_RECORDS[module] = record


@contextmanager
def record_use() -> Iterator[UsedPlugins]:
    """A context that collects the plugins whose code runs in it."""
    token = _used.set(used := UsedPlugins())
    try:
        yield used
    finally:
        _used.reset(token)


@cache
def _install() -> None:
    readers.install(_record, _running)


def _record(event: readers.Event, name: str) -> None:
    """Add an event to the record of the code that runs."""
    execution = _innermost.get() or (_running[-1] if _running else None)
    if event == "written":
        _written[os.path.realpath(name)] = time.time()
    if execution is None or execution.record is None:
        return
    if event == "connection":
        execution.fetched = True
    elif event in ("program", "library"):
        if not _called_by_library():
            execution.record.add_other(f"the {event} {name}")
    # a log file that this process created does not count when it is opened again
    elif event == "read" or (event == "appended" and os.path.realpath(name) not in _written):
        _record_file(name, execution, execution.record)


def _record_file(path: str, execution: _Execution, record: OpenedFiles) -> None:
    absolute = os.path.realpath(path) if path.startswith("/proc/") else os.path.abspath(path)
    path = exempt.source_of(absolute)
    if exempt.is_library_file(path) or not os.path.exists(path):
        return
    if path not in record and (execution.wrote(path) or execution.declares(path)):
        return
    record.add(path)
    for module in _modules_being_imported():
        IMPORT_RECORDS.setdefault(module, OpenedFiles(module)).add(path)


def _frames() -> Iterator[FrameType]:
    """The stack, the innermost frame first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _modules_being_imported() -> Iterator[str]:
    """The modules whose top-level code runs now.

    That code runs only for the first plugin that imports a module, but all that import it depend on it.
    """
    for frame in _frames():
        if frame.f_code.co_name == "<module>" and (name := frame.f_globals.get("__name__")) != "__main__":
            yield str(name)


def _called_by_library() -> bool:
    """Whether the code of a library, and not of a plugin, started a program or loaded a library."""
    for frame in _frames():
        path = frame.f_code.co_filename
        if frame.f_globals.get("__name__") in ("ctypes.util", "platform", "uuid"):
            return True  # Python starts programs such as `uname` to find out about the machine
        if not path.startswith(_HERE) and not exempt.is_standard_library(path):
            return exempt.is_library_file(path)
    return True
