"""Modules that lie beside a plugin file: importable while the file is loaded or its imports are searched."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import ModuleType

from benchmark.checkout import users_path


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """Make the modules in the folder of a file importable. Libraries of the same name come first.

    They are imported again in each such block and are not in `sys.modules` outside of it: they may have been
    edited since, and another folder may hold modules of the same names.
    """
    folder = os.path.realpath(path.parent)
    finder = _FolderFinder(folder)
    before = _take_out(folder)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _take_out(folder)
        sys.modules.update(before)


class SourceLoader(SourceFileLoader):
    """Compiles the source at each import. Cached bytecode may be stale: it has the time to the second."""

    def path_stats(self, path: str) -> dict[str, float]:
        raise OSError(f"no cached bytecode is used for {path}")


class _FolderFinder(MetaPathFinder):
    """Finds modules in one folder, and in the packages in it, unless a library has the name."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top == "benchmark":
            return None
        if path is None:
            others = [entry for entry in users_path() if os.path.realpath(entry) != self._folder]
            library = PathFinder.find_spec(name, others)
            found = library is not None and library.loader is not None
            return None if found else self._find(name, [self._folder])
        inside = any(Path(os.path.realpath(entry)).is_relative_to(self._folder) for entry in path)
        return self._find(name, path) if inside and _lies_in(top, self._folder) else None

    @staticmethod
    def _find(name: str, path: Sequence[str]) -> ModuleSpec | None:
        loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceLoader, SOURCE_SUFFIXES))
        specs = [FileFinder(entry, *loaders).find_spec(name) for entry in path]
        found = [spec for spec in specs if spec is not None]
        complete = next((spec for spec in found if spec.loader is not None), None)
        if complete is not None or not found:
            return complete
        namespace = ModuleSpec(name, None, is_package=True)
        namespace.submodule_search_locations = [
            place for spec in found for place in spec.submodule_search_locations or ()
        ]
        return namespace


def _take_out(folder: str) -> dict[str, ModuleType]:
    """Remove the modules of a folder from `sys.modules`, and return them."""
    tops = {top for top in {name.partition(".")[0] for name in sys.modules} if _lies_in(top, folder)}
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}


def _lies_in(top: str, folder: str) -> bool:
    """Whether a loaded top-level module or package lies directly in a folder."""
    spec = getattr(sys.modules.get(top), "__spec__", None)
    if spec is None or top == "benchmark":
        return False
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    # the origin of a module without a file is text such as "built-in"
    files = [place for place in places if os.path.isabs(place)]
    return any(os.path.realpath(os.path.dirname(file)) == folder for file in files)
