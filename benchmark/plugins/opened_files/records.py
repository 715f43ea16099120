"""Records of the files, programs and libraries that each plugin used in this process.

Files that the parameters of a plugin name are not recorded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.files.digests import shown
from benchmark.plugins.opened_files import exempt

if TYPE_CHECKING:
    from benchmark.plugins.plugin import Config, Plugin


class OpenedFiles:
    """The undeclared files that one plugin opened, and the programs and libraries that it used.

    All instances of a plugin share one record, because a module may read a file once for all of them.
    `title` is the kind and the name of the plugin.
    """

    def __init__(self, title: str, modules: Iterable[str] = ()) -> None:
        self.title = title
        self._modules = dict.fromkeys(modules)
        self._paths: dict[str, None] = {}
        self._others: dict[str, None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenedFiles:
        return self  # a copy of a plugin shares the record

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    @property
    def is_empty(self) -> bool:
        return not self._paths and not self._others

    def add(self, path: str) -> None:
        """Add a file by its absolute path."""
        self._paths[path] = None

    def add_other(self, description: str) -> None:
        """Add a source of unknown content, such as "the program convert"."""
        self._others[description] = None

    def add_module(self, name: str) -> None:
        """Add a module whose code is part of the plugin, such as the file of a factory."""
        self._modules[name] = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that the plugin opened, and those that its modules opened when they were imported.

        Source files that the plugin's fingerprint covers are left out, since keys contain the fingerprint. It
        does not cover source files that the plugin imports without an import statement.
        """
        found = {path: None for record in self._with_imports() for path in record._paths}
        if any(exempt.is_source(path) for path in found):
            covered = {os.path.realpath(source) for source in self._covered_sources().values()}
            found = {path: None for path in found if os.path.realpath(path) not in covered}
        return tuple(map(Path, found))

    @property
    def others(self) -> tuple[str, ...]:
        """The programs and libraries that it used, as descriptions."""
        return tuple({text: None for record in self._with_imports() for text in record._others})

    @property
    def names(self) -> tuple[str, ...]:
        """Everything as publishable text: paths relative to the current folder, or file names alone."""
        return (*(shown(path, public=True) for path in self.paths), *self.others)

    def _with_imports(self) -> list[OpenedFiles]:
        """This record, and those of the modules that the plugin consists of."""
        modules = {**self._modules, **self._covered_sources()} if IMPORT_RECORDS else {}
        return [self, *(IMPORT_RECORDS[module] for module in modules if module in IMPORT_RECORDS)]

    def _covered_sources(self) -> dict[str, Path]:
        """The files that the fingerprints of the plugin's modules cover, by module name."""
        from benchmark.errors import UserError
        from benchmark.plugins.fingerprint import sources
        from benchmark.plugins.opened_files.recorder import unwatched

        found: dict[str, Path] = {}
        for number, module in enumerate(list(self._modules)):
            file = getattr(sys.modules.get(module), "__file__", None) or ""
            of_library = number and exempt.is_library_file(file)  # a base class, such as nn.Module
            if exempt.is_source(file) and not of_library:
                with suppress(UserError), unwatched():  # the file is gone, or is no longer Python
                    found |= sources(Path(file), module)
        return found


PLUGIN_RECORDS: dict[tuple[Any, ...], OpenedFiles] = {}

IMPORT_RECORDS: dict[str, OpenedFiles] = {}
"""By module name: the record of a module while it was imported."""


def opened_by(kind: str, plugin: Plugin[Any] | type[Plugin[Any]], *configs: Config) -> OpenedFiles:
    """The record of a plugin.

    A pretrained target has one record for each configuration, since each may run the code of another factory.
    """
    cls = plugin if isinstance(plugin, type) else type(plugin)
    if cls is not plugin and isinstance(own := vars(plugin).get("_opened"), OpenedFiles):
        return own
    pretrained = kind == "target" and not getattr(cls, "trainable", True)
    key = (kind, cls, *(config.model_dump_json() for config in configs if pretrained))
    if key not in PLUGIN_RECORDS:
        modules = dict.fromkeys(base.__module__ for base in cls.__mro__)
        PLUGIN_RECORDS[key] = OpenedFiles(f"{kind} {cls.name}", modules)
    if cls is not plugin:
        vars(plugin)["_opened"] = PLUGIN_RECORDS[key]
    return PLUGIN_RECORDS[key]


class UsedPlugins(set[OpenedFiles]):
    """The records of the plugins whose code ran while a result was computed."""

    @property
    def opened(self) -> dict[str, list[str]]:
        """The files, programs and libraries that they used, by plugin title; omits plugins with none."""
        return merge_opened([{record.title: names} for record in self if (names := record.names)])


def merge_opened(parts: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Merge several mappings from plugin titles to what the plugins opened."""
    merged: dict[str, set[str]] = {}
    for part in parts:
        for title, names in part.items():
            merged.setdefault(title, set()).update(names)
    return {title: sorted(names) for title, names in sorted(merged.items())}
