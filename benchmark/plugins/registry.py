"""The registry of plugins: built-in ones, those of installed packages, and those of the user's files.

Names are read from source text and from entry points, so listing the plugins imports none of them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.errors import PluginError, Problem, UserError, nearest
from benchmark.files.names import name_fault
from benchmark.plugins.declarations import Declaration, declarations
from benchmark.plugins.fingerprint import fingerprint, own_fingerprint, versions_used
from benchmark.plugins.importing import import_module, import_plugin
from benchmark.plugins.opened_files import record_import
from benchmark.plugins.plugin import Plugin

KINDS: dict[str, str] = {
    "dataset": "benchmark.datasets",
    "target": "benchmark.targets",
    "defense": "benchmark.defenses",
    "attack": "benchmark.attacks",
}
"""Each kind and the package whose files declare the built-in plugins of that kind."""


@dataclass(frozen=True)
class Entry:
    """One registered plugin.

    Attributes:
        summary: The first paragraph of its docstring.
        origin: Where it is declared, for messages.
        load: Imports it and returns its class.
        builtin: Whether it is part of this project. Its `version` then marks changes of its results.
    """

    kind: str
    name: str
    summary: str
    origin: str
    load: Callable[[], type[Plugin[Any]]]
    builtin: bool = False

    def fingerprint(self) -> str:
        """The fingerprint of the plugin's code and of the modules that it imports; imports the plugin."""
        return fingerprint(*self._source())

    def code(self) -> Mapping[str, Any] | None:
        """Identifies the code in result keys; None for built-in plugins, whose version does this."""
        if self.builtin:
            return None
        return {"sha256": own_fingerprint(*self._source()), "uses": dict(versions_used(*self._source()))}

    def _source(self) -> tuple[Path, str]:
        module = sys.modules[self.load().__module__]
        if module.__file__ is None:
            raise PluginError(f"{self.kind} {self.name}: its module has no file to fingerprint")
        return Path(module.__file__), module.__name__


class Registry:
    """The known plugins by kind and name."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}

    def add(self, entry: Entry) -> None:
        """Register a plugin; UserError if its name is not valid as a folder name, or is taken."""
        self._check_name(entry)
        self._entries[entry.kind][entry.name] = entry

    def _check_name(self, entry: Entry) -> None:
        fault = name_fault(entry.name)
        if fault is not None:  # the store has folders of this name
            raise UserError(f"{entry.kind} {entry.name!r} in {entry.origin}: the name {fault}")
        known = self._entries[entry.kind].get(entry.name)
        if known is not None:
            raise UserError(
                f"two {entry.kind}s are named {entry.name!r}: one in {known.origin}, one in {entry.origin}",
                hint="rename one of them",
            )

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted."""
        return sorted(self._entries[kind])

    def entries(self, kind: str) -> list[Entry]:
        """The entries of a kind, sorted by name."""
        return [self._entries[kind][name] for name in self.names(kind)]

    def get(self, kind: str, name: str) -> Entry:
        """The entry of that name; UserError with the nearest names if there is none."""
        if name not in self._entries[kind]:
            raise UserError(f"unknown {kind} {name!r}", hint=nearest(name, self._entries[kind]))
        return self._entries[kind][name]

    def add_file(self, path: Path) -> list[Entry]:
        """Register every plugin that a file declares; for `--plugin FILE`.

        Raises:
            UserError: The file is missing, is not valid Python, declares nothing, or repeats a name.
        """
        load = cache(partial(import_plugin, path))  # each task loads its plugins
        found = [_from_declaration(declaration, load) for declaration in declarations(path, KINDS)]
        if not found:
            hint = "decorate a class: " + ", ".join(f'@{kind}("name")' for kind in KINDS)
            raise UserError(Problem("declares no plugin", file=str(path), hint=hint))
        for check_or_add in (self._check_name, self.add):  # adds all or, if one name is taken, none
            for entry in found:
                check_or_add(entry)
        return found


def default_registry(plugins: Iterable[Path] = ()) -> Registry:
    """Built-in plugins, those of installed packages (entry points `bench.defenses` etc.) and of given files.

    Raises:
        UserError: Two plugins have the same name, or a file cannot be used.
    """
    registry = Registry()
    for kind, package in KINDS.items():
        for path in _files_of(package):
            load = partial(import_module, f"{package}.{path.stem}")
            for declaration in declarations(path, [kind]):
                registry.add(_from_declaration(declaration, load, builtin=True))
        for point in importlib.metadata.entry_points(group=f"bench.{kind}s"):
            registry.add(_from_entry_point(kind, point))
    for path in dict.fromkeys(Path(plugin).resolve() for plugin in plugins):
        registry.add_file(path)
    return registry


def _files_of(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return sorted(path for folder in folders or () for path in Path(folder).glob("*.py"))


def _from_declaration(
    declaration: Declaration, load_module: Callable[[], ModuleType], *, builtin: bool = False
) -> Entry:
    def load() -> type[Plugin[Any]]:
        try:
            module = load_module()
        except (Exception, SystemExit) as error:  # a plugin file may raise anything at import
            message = f"cannot be imported: {type(error).__name__}: {error}"
            line = _last_line_in(declaration.path, error)
            raise UserError(Problem(message, file=str(declaration.path), line=line)) from error
        return _check_class(declaration.kind, declaration.name, getattr(module, declaration.attribute))

    return Entry(declaration.kind, declaration.name, declaration.summary, declaration.origin, load, builtin)


def _from_entry_point(kind: str, point: importlib.metadata.EntryPoint) -> Entry:
    package = point.dist.name if point.dist else "an installed package"

    def load() -> type[Plugin[Any]]:
        try:
            with record_import(point.module):
                loaded = point.load()
        except Exception as error:  # the code of another package may raise anything at import
            raise UserError(f"{kind} {point.name!r} of {package} cannot be imported: {error!r}") from error
        return _check_class(kind, point.name, loaded)

    return Entry(kind, point.name, f"from {package}", f"{package} ({point.value})", load)


def _check_class(kind: str, name: str, loaded: Any) -> type[Plugin[Any]]:
    if not (isinstance(loaded, type) and issubclass(loaded, Plugin)) or loaded.name != name:
        raise UserError(f"{kind} {name!r} is not a class decorated with @{kind}({name!r})")
    return loaded


def _last_line_in(path: Path, error: BaseException) -> int | None:
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()), None)
