"""Reading code as text: which plugins a file declares, what a module imports, fingerprints of code."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.opened_files import record_import, unwatched
from benchmark.opened_files.exempt import is_library_file

PROJECT_PACKAGES = frozenset({"benchmark", "defenses", "attacks", "targets"})

_MODULES = re.compile(r"^[^/.,]+(?=/|(?:\.[^/.,]+)*\.(?:py|so|pyd)(?:,|$))", re.MULTILINE)
"""What can be imported of installed paths, one to a line: packages, and modules less their suffixes.

Not `name.pth`, by which an editable install leads to code that lies elsewhere.
"""


@dataclass(frozen=True)
class Declaration:
    """A plugin found in a file by its decorator, e.g. `@defense("ape-gan") class ApeGan`."""

    kind: str
    name: str
    attribute: str
    summary: str
    path: Path
    line: int

    @property
    def origin(self) -> str:
        return f"{self.path}:{self.line}"


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file.

    Raises:
        UserError: The file cannot be read or is not valid Python; names file and line.
    """
    try:
        with unwatched():
            text = path.read_text(encoding="utf-8")
        return ast.parse(text, filename=str(path))
    except OSError as error:
        raise UserError(Problem(f"cannot read the plugin file: {error.strerror}", file=str(path))) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem("the plugin file is not UTF-8 text", file=str(path))) from error
    except SyntaxError as error:
        raise UserError(
            Problem(f"not valid Python: {error.msg}", file=str(path), line=error.lineno)
        ) from error


def declarations(path: Path, kinds: Iterable[str]) -> Iterator[Declaration]:
    """The plugins that a file declares, read from its decorators without running it."""
    kinds = frozenset(kinds)
    return (declared for declared in _read(path, _version(path)).declared if declared.kind in kinds)


def _declared(tree: ast.Module, path: Path) -> Iterator[Declaration]:
    """Whatever a decorator with a name may declare, of any kind."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Name(id=kind) | ast.Attribute(attr=kind), args=[ast.Constant(value=str(name))]
                ):
                    yield Declaration(kind, name, node.name, summary, path, node.lineno)


@cache
def sources(path: Path, module: str) -> Mapping[str, Path]:
    """The files whose code the fingerprint of a module covers, by the name of each module.

    These are the module and all that it imports with import statements, except libraries.
    """
    files: dict[str, Path] = {}
    _collect(path, module, files)
    return files


@cache
def fingerprint(path: Path, module: str) -> str:
    """SHA-256 over a file's code and that of all modules that it imports and no library owns.

    Comments, docstrings, layout, annotations of functions and texts of what is raised do not count.
    """
    return _hashed(module, sources(path, module))


@cache
def own_fingerprint(path: Path, module: str) -> str:
    """As `fingerprint`, without this project's modules: what somebody's own plugin is made of."""
    files = sources(path, module)
    return _hashed(module, {name: files[name] for name in files if not _is_project(name)})


@cache
def versions_used(path: Path, module: str) -> Mapping[str, int]:
    """The versions above 1 of what this project declares in the modules that a file imports.

    Of plugins, kinds of tasks and threats, e.g. `{"defense ape-gan": 2}`.
    """
    files = sources(path, module)
    declared = [_read(files[name], _version(files[name])).versions for name in files if _is_project(name)]
    return {name: version for versions in declared for name, version in versions.items() if version > 1}


def _is_project(module: str) -> bool:
    return module.partition(".")[0] in PROJECT_PACKAGES


def _hashed(module: str, files: Mapping[str, Path]) -> str:
    content = hashlib.sha256()
    for name in sorted(files):
        label = "" if name == module else name  # where a plugin lives does not change what it does
        content.update(f"{label}\n{normalised(files[name])}\n".encode())
    return content.hexdigest()


def normalised(path: Path) -> str:
    """The code of a file without what `fingerprint` leaves out."""
    return _normalised(path, _version(path))


def _version(path: Path) -> tuple[int, int]:
    """Tells a file from what it was before: plugins import the same modules, and each is read once."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)  # reading it says what is wrong
    return (status.st_mtime_ns, status.st_size)


@cache
def _normalised(path: Path, version: tuple[int, int]) -> str:
    return ast.unparse(_read(path, version).code)


@dataclass(frozen=True)
class _File:
    """What a file declares, the versions that it states, and its code as `normalised` shows it."""

    declared: tuple[Declaration, ...]
    versions: Mapping[str, int]
    code: ast.Module


@cache
def _read(path: Path, version: tuple[int, int]) -> _File:
    """A file, parsed once for all that is asked of it."""
    tree = parse(path)
    declared = tuple(_declared(tree, path))
    versions = dict(_versions(tree, declared))
    for node in [tree, *_statements(tree)]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = [statement for statement in node.body if not _is_docstring(statement)]
            node.body = body or [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_annotations(node)
        if isinstance(node, ast.Raise) and node.exc is not None:
            _Wordless().visit(node.exc)
    return _File(declared, versions, tree)


def _drop_annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Take away the types of parameters and of what is returned: nothing here reads them when it runs."""
    function.returns = None
    names = function.args
    for parameter in (*names.posonlyargs, *names.args, *names.kwonlyargs, names.vararg, names.kwarg):
        if parameter is not None:
            parameter.annotation = None


class _Wordless(ast.NodeTransformer):
    """Empties the texts of what is raised: no result depends on the words of a message."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return ast.Constant("")


def _versions(tree: ast.Module, declared: Iterable[Declaration]) -> Iterator[tuple[str, int]]:
    """The versions that classes state: of plugins, of kinds of tasks (`kind`) and of threats (`name`)."""
    plugins = {one.attribute: f"{one.kind} {one.name}" for one in declared}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        constants = dict(_constants(node))
        task, threat = (constants.get(name) for name in ("kind", "name"))
        title = plugins.get(node.name) or (task and f"task {task}") or (threat and f"threat {threat}")
        if title and isinstance(constants.get("version"), int):
            yield str(title), constants["version"]


def _constants(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)):
                yield name, value


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements below a node: a walk through every expression takes several times as long."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, name, ())
        if isinstance(inner, list):  # of a lambda or a conditional expression it is none
            for statement in inner:
                yield statement
                yield from _statements(statement)


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _collect(path: Path, module: str, files: dict[str, Path]) -> None:
    if module in files:
        return
    files[module] = path
    own = module.partition(".")[0]
    for name in _imported(path, module, _version(path)):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top not in PROJECT_PACKAGES and top != own and release(top):
            continue  # a library
        # to import a module runs its packages first; those of this project only gather names
        for parent in () if top in PROJECT_PACKAGES else _parents(name):
            package = _source(parent)
            if package is not None:
                _collect(package, parent, files)
        source = _source(name)  # the project's, the plugin's own, or a file that no distribution owns
        if source is not None:
            _collect(source, name, files)


@cache
def _imported(path: Path, module: str, version: tuple[int, int]) -> tuple[str, ...]:
    return tuple(_imports(_read(path, version).code, module, is_package=path.name == "__init__.py"))


def _imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    package = module if is_package else module.rpartition(".")[0]
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            yield base
            # `from package import module` names a module only sometimes: _source decides
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _parents(module: str) -> Iterator[str]:
    """The packages that a module is in, from the outermost one."""
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts)))


def _source(module: str) -> Path | None:
    try:
        with record_import(module):  # to find a module in a package imports the package
            spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _owners() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """The distributions that each top-level module is of, read from what they installed.

    An editable package is the user's own code: its distribution may name its modules, and has not installed
    their files. So a name in `top_level.txt` counts only if the list of installed files has the module, or,
    for a distribution without such a list, if the module lies beside it where libraries are installed.

    `importlib.metadata.packages_distributions` tells as much, and makes a path of every installed file for
    it, which takes longer than planning thousands of cells.
    """
    owners: dict[str, list[importlib.metadata.Distribution]] = {}
    for found in importlib.metadata.distributions():
        named = (found.read_text("top_level.txt") or "").split()
        declared = {module.partition("/")[0] for module in named}
        record = found.read_text("RECORD")
        if record is not None:
            installed = set(_MODULES.findall(record))
        elif is_library_file(os.path.abspath(str(found.locate_file("any")))):
            installed = {module for module in declared if _lies_in(found, module)}
        else:
            continue  # such as the `egg-info` in the folder of a project
        for module in installed & declared if declared else installed:
            owners.setdefault(module, []).append(found)
    return owners


def _lies_in(found: importlib.metadata.Distribution, module: str) -> bool:
    """Whether a top-level module lies in the folder of the distribution."""
    folder = Path(str(found.locate_file("")))
    return (folder / module).is_dir() or any(folder.glob(f"{module}.*"))


@cache
def release(library: str) -> str:
    """The installed release of a top-level module; empty where no distribution owns it."""
    if library not in _owners():
        _owners.cache_clear()  # it may have been installed since
    names = {found.metadata["Name"] for found in _owners().get(library, ())}
    # of two copies the first on the path is the one that is imported
    return ",".join(sorted(f"{name}-{importlib.metadata.version(name)}" for name in names))
