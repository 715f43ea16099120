"""Imports modules and plugin files, and records the files that their code opens meanwhile."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType

from benchmark.errors import Problem, UserError
from benchmark.plugins.beside import SourceLoader, beside
from benchmark.plugins.fingerprint import PLUGIN_MODULE, code_beside
from benchmark.plugins.old_names import old_names
from benchmark.plugins.opened_files import record_import, unwatched


def import_module(name: str) -> ModuleType:
    """Import a module by name. Exceptions of its code are passed on."""
    with record_import(name):
        return importlib.import_module(name)


def import_file(path: Path) -> ModuleType:
    """Import a Python file, once for each content; UserError for another file. Exceptions are passed on."""
    with unwatched():
        content = path.read_bytes()
    return _import(path, content, nullcontext())


def import_plugin(path: Path) -> ModuleType:
    """As `import_file`, for a plugin file: modules beside it can be imported, and old module names resolve.

    The modules beside it are imported again for each plugin file, and whenever their code has changed.
    """
    with unwatched():
        content = path.read_bytes() + code_beside(path).encode()
    with old_names(path):
        return _import(path, content, beside(path))


def _import(path: Path, content: bytes, context: AbstractContextManager[None]) -> ModuleType:
    # One module for each place and content: another file of that name, or an edited one, is another plugin.
    digest = hashlib.sha256(os.fsencode(path.resolve()) + b"\0" + content).hexdigest()
    module_name = f"{PLUGIN_MODULE}{path.stem}_{digest[:16]}"
    if module_name in sys.modules:
        with record_import(module_name):
            return sys.modules[module_name]
    if path.suffix != ".py":
        raise UserError(Problem("cannot be imported: is it a .py file?", file=str(path)))
    loader = SourceLoader(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with context, record_import(module_name):
            loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
