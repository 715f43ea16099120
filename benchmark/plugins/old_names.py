"""Old module names of this project, for plugin files that were written before the modules moved.

`attacks`, `defenses` and `targets` are common names of folders, so this project no longer uses them as names
of top-level packages. While a plugin file is loaded, and only then, imports from the old modules still work,
if what they import still exists: they resolve to `benchmark.api` or to the module's new place, and a warning
says what to write instead. A package of the user that has the same name comes first.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.checkout import PLUGIN_FOLDERS as _PACKAGES
from benchmark.checkout import checkout, users_path

_API = "benchmark.api"

_MODULES = {
    **dict.fromkeys((f"{package}.contract" for package in _PACKAGES), _API),
    **dict.fromkeys(("attacks.ball", "attacks.gradients", "benchmark.datasets.contract"), _API),
    **dict.fromkeys((f"benchmark.{name}" for name in ("adversarial", "noise", "plugin", "training")), _API),
    "attacks.art_adapter": "benchmark.attacks.adapters.art_adapter",
    "attacks.ascent": "benchmark.attacks.steps.iterative",
    "attacks.auto_pgd": "benchmark.attacks.steps.auto_pgd",
    "attacks.backends": "benchmark.attacks.adapters.backends",
    "attacks.carlini": "benchmark.attacks.steps.carlini_wagner",
    "attacks.foolbox_adapter": "benchmark.attacks.adapters.foolbox_adapter",
    "attacks.goal": "benchmark.attacks.steps.goal",
    "benchmark.opened_files": "benchmark.plugins.opened_files",
    "defenses.ape_nets": "benchmark.defenses.nets.ape_gan_networks",
    "defenses.learning": "benchmark.defenses.nets.training_steps",
    "targets.factories": "benchmark.targets.loading.factories",
    "targets.files": "benchmark.targets.loading.model_files",
    "targets.preparation": "benchmark.targets.loading.preprocessing",
    "targets.recipe": "benchmark.targets.loading.recipe",
}
"""Old modules and where their content is now. Other old modules have the same name below `benchmark`."""

_RENAMED = {
    "GivenTarget": "PretrainedTarget",
    "NoImages": "EmptySplit",
    "apart": "unkeyed",
    "perturbed": "perturb",
    "undisturbed": "frozen_batchnorm",
}


def current_name(module: str) -> str | None:
    """The module that an old name stands for; None if the name is not an old one, or is now the user's."""
    top = module.partition(".")[0]
    if top in _PACKAGES and _users_package(top) is None:
        return _MODULES.get(module, _API if module == top else f"benchmark.{module}")
    return _MODULES.get(module) if top == "benchmark" else None


def _users_package(package: str) -> ModuleSpec | None:
    """The user's own package of an old name, if it is loaded, beside the plugin, or on the path.

    This project's own folder does not count, although its checkout may be on the path. Neither does a folder
    without `__init__.py`.
    """
    finders = [finder for finder in sys.meta_path if not isinstance(finder, _Finder | type)]
    specs: list[ModuleSpec | None] = [getattr(sys.modules.get(package), "__spec__", None)]
    specs += [finder.find_spec(package, None) for finder in finders]
    specs.append(PathFinder.find_spec(package, users_path()))
    root = checkout()
    own = None if root is None else os.path.realpath(os.path.join(root, package, "__init__.py"))
    for spec in specs:
        if spec is not None and spec.origin and os.path.realpath(spec.origin) != own:
            return spec
    return None


@contextmanager
def old_names(path: Path) -> Iterator[None]:
    """Let old module names resolve while the plugin file `path` is loaded."""
    finder = _Finder(path)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in finder.made.items():
            sys.modules.pop(name, None)
            parent, _, last = name.rpartition(".")
            if vars(sys.modules.get(parent, finder)).get(last) is module:
                delattr(sys.modules[parent], last)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, path: Path) -> None:
        self.made: dict[str, ModuleType] = {}
        self._path = path

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        current = current_name(name)
        if current is not None and (name in _PACKAGES or _exists(current)):
            return ModuleSpec(name, self, is_package=name in _PACKAGES)
        if name in _PACKAGES:
            return _users_package(name)
        if name in _MODULES and name.partition(".")[0] in _PACKAGES:
            _warn(self._path, name)  # the user's package has no such module: Python's message is no help
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        made = _OldModule(spec.name, importlib.import_module(str(current_name(spec.name))))
        self.made[spec.name] = made
        return made

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ not in _PACKAGES:
            _warn(self._path, module.__name__)


def _exists(module: str) -> bool:
    try:
        return importlib.import_module(module) is not None
    except ModuleNotFoundError:
        return False


class _OldModule(ModuleType):
    """Passes every attribute on to the module that it stands for."""

    def __init__(self, name: str, current: ModuleType) -> None:
        super().__init__(name)
        self._current = current

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":  # for star imports
            names = [known for known in vars(self._current) if not known.startswith("_")]
            return [*names, *(old for old, new in _RENAMED.items() if new in names)]
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__ in _PACKAGES:
            try:
                return importlib.import_module(f"{self.__name__}.{name}")
            except ModuleNotFoundError as error:
                raise AttributeError(name) from error
        return getattr(self._current, _RENAMED.get(name, name))


def _warn(path: Path, module: str) -> None:
    """Warn at the line of the plugin file that imports the old module, with the line to write instead."""
    line, imported = 1, "…"
    parent, _, last = module.rpartition(".")
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if node.module == module:
                line, imported = node.lineno, ", ".join(sorted(_RENAMED.get(name, name) for name in names))
            elif node.module == parent and last in names:
                line = node.lineno
        elif isinstance(node, ast.Import) and module in [alias.name for alias in node.names]:
            line = node.lineno
    current = current_name(module) or _MODULES.get(module, _API)
    text = f"{module} is an old name; write: from {current} import {imported}"
    warnings.warn_explicit(text, FutureWarning, str(path), line)
