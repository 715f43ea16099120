"""Fingerprints of a plugin's code: SHA-256 over its file and the modules that it imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from benchmark.plugins.beside import beside
from benchmark.plugins.declarations import file_stamp, read_source, statements
from benchmark.plugins.old_names import current_name
from benchmark.plugins.opened_files.exempt import is_library_file

PROJECT_PACKAGES = frozenset({"benchmark"})

PLUGIN_MODULE = "bench_plugin_"
"""How the names of modules made from plugin files begin."""

_MODULES = re.compile(r"^[^/.,]+(?=/|(?:\.[^/.,]+)*\.(?:py|so|pyd)(?:,|$))", re.MULTILINE)
"""Top-level packages and modules in a list of installed paths, one path per line.

`name.pth` does not match: with such a file an editable install points to code that lies elsewhere.
"""


@cache
def sources(path: Path, module: str) -> Mapping[str, Path]:
    """The files that the fingerprint of a module covers, by module name.

    These are the module and, recursively, what its import statements name, except libraries.
    """
    files: dict[str, Path] = {}
    with beside(path) if module.startswith(PLUGIN_MODULE) else nullcontext():
        _collect(path, module, files, set())
    return files


def code_beside(path: Path) -> str:
    """SHA-256 over the code of a plugin file and of the user's own modules that it imports.

    Modules of this project and of libraries are left out. The imports are collected again in each call.
    """
    module = f"{PLUGIN_MODULE}{path.stem}"
    return _digest(module, sources.__wrapped__(path, module), own=True)


def imported_beside(path: Path) -> list[Path]:
    """The files in the folder of a plugin file that the plugin imports, itself left out."""
    files = sources.__wrapped__(path, f"{PLUGIN_MODULE}{path.stem}")
    own = [file for name, file in files.items() if file != path and not _is_project(name)]
    return sorted(file for file in own if file.resolve().is_relative_to(path.resolve().parent))


@cache
def fingerprint(path: Path, module: str) -> str:
    """SHA-256 over the code of a file and of all modules that it imports, except those of libraries.

    Comments, docstrings, layout, function annotations and the messages of raised exceptions do not count.
    """
    return _digest(module, sources(path, module))


@cache
def own_fingerprint(path: Path, module: str) -> str:
    """As `fingerprint`, without the modules of this project: the user's own code alone."""
    return _digest(module, sources(path, module), own=True)


@cache
def versions_used(path: Path, module: str) -> Mapping[str, int]:
    """The versions above 1 that the imported modules of this project state.

    Plugins, task kinds and threats have versions, e.g. `{"defense ape-gan": 2}`.
    """
    files = sources(path, module)
    own = [file for name, file in files.items() if _is_project(name)]
    declared = [read_source(file, file_stamp(file)).versions for file in own]
    return {name: version for versions in declared for name, version in versions.items() if version > 1}


def _is_project(module: str) -> bool:
    return module.partition(".")[0] in PROJECT_PACKAGES


def _digest(module: str, files: Mapping[str, Path], own: bool = False) -> str:
    content = hashlib.sha256()
    for name in sorted(name for name in files if not (own and _is_project(name))):
        label = "" if name == module else name  # the place of a plugin file does not change its results
        content.update(f"{label}\n{normalised(files[name])}\n".encode())
    return content.hexdigest()


def normalised(path: Path) -> str:
    """The code of a file without the parts that `fingerprint` ignores."""
    return _normalised(path, file_stamp(path))


@cache
def _normalised(path: Path, stamp: tuple[int, int]) -> str:
    return ast.unparse(read_source(path, stamp).code)


def _collect(path: Path, module: str, files: dict[str, Path], searched: set[str]) -> None:
    files[module] = path
    searched.add(module)
    own = module.partition(".")[0]
    for imported in _imported(path, module, file_stamp(path)):
        name = current_name(imported) or imported
        top = name.partition(".")[0]
        is_project = top in PROJECT_PACKAGES
        if top in sys.stdlib_module_names or (not is_project and top != own and release(top)):
            continue  # a library
        parts = name.split(".")
        # importing a module runs its packages first; the packages of this project only collect names
        for length in range(len(parts) if is_project else 1, len(parts) + 1):
            part = ".".join(parts[:length])
            if part in searched:
                continue
            searched.add(part)
            source = _source(part)  # the project's, the plugin's own, or a file that no distribution owns
            if source is not None:
                _collect(source, part, files, searched)


@cache
def _imported(path: Path, module: str, stamp: tuple[int, int]) -> tuple[str, ...]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in statements(read_source(path, stamp).code):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            # in `from package import name` the name may be a module or not: _source finds out
            names += (base, *(f"{base}.{alias.name}" for alias in node.names))
    return tuple(names)


def _source(module: str) -> Path | None:
    """The file of a module, found without importing it or its packages."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        if name in sys.modules:
            loaded = sys.modules[name]
            spec, path = getattr(loaded, "__spec__", None), getattr(loaded, "__path__", None)
            continue
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec is not None), None)
        path = None if spec is None else spec.submodule_search_locations
        if spec is None or (path is None and name != module):
            return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _owners() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """The distributions that own each top-level module, read from their lists of installed files.

    An editable package is the user's own code: its distribution may name its modules, but has not installed
    their files. So a name in `top_level.txt` counts only if the list of installed files contains the module.
    If a distribution has no such list, the name counts if the module lies beside it in a library folder.

    `importlib.metadata.packages_distributions` gives the same but makes a path object of every installed
    file, which takes longer than planning thousands of cells.
    """
    owners: dict[str, list[importlib.metadata.Distribution]] = {}
    for distribution in importlib.metadata.distributions():
        lines = (distribution.read_text("top_level.txt") or "").split()
        declared = {line.partition("/")[0] for line in lines}
        record = distribution.read_text("RECORD")
        if record is not None:
            installed = set(_MODULES.findall(record))
        elif is_library_file(os.path.abspath(str(distribution.locate_file("any")))):
            folder = Path(str(distribution.locate_file("")))
            installed = {
                name for name in declared if (folder / name).is_dir() or any(folder.glob(f"{name}.*"))
            }
        else:
            continue  # such as the `egg-info` in the folder of a project
        for module in installed & declared if declared else installed:
            owners.setdefault(module, []).append(distribution)
    return owners


@cache
def release(library: str) -> str:
    """The installed release of a top-level module, e.g. "torch-2.6.0"; empty if no distribution owns it."""
    if library not in _owners():
        _owners.cache_clear()  # the library may have been installed in the meantime
    names = {distribution.metadata["Name"] for distribution in _owners().get(library, ())}
    # if two copies are installed, Python imports the first on the path, and `version` reads that one
    return ",".join(sorted(f"{name}-{importlib.metadata.version(name)}" for name in names))
