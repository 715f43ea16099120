"""Importing Python files that are not on the path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from benchmark.errors import Problem, UserError
from benchmark.opened_files import record_import, unwatched


def import_module(name: str) -> ModuleType:
    """The module of that name; what it opens is recorded. Whatever its code raises comes through."""
    with record_import(name):
        return importlib.import_module(name)


def import_file(path: Path) -> ModuleType:
    """The module that a file makes, imported once for each content.

    Raises:
        UserError: It is not a Python file. Whatever its code raises comes through.
    """
    # One module for each content: another file of that name, or an edited one, is another plugin.
    with unwatched():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    module_name = f"bench_plugin_{path.stem}_{content[:16]}"
    if module_name in sys.modules:
        with record_import(module_name):
            return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(Problem("cannot be imported: is it a .py file?", file=str(path)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with record_import(module_name):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
