"""Reading plugins as text: their names without importing them, and a fingerprint of their code."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmark.errors import Problem, UserError

PROJECT_PACKAGES = frozenset({"benchmark", "defenses", "attacks", "targets"})

_FRAMEWORK = frozenset({"torch", "numpy", "pydantic"})
"""Libraries that every plugin rests on; their releases do not change what a plugin is."""


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
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
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
    for node in parse(path).body:
        if not isinstance(node, ast.ClassDef):
            continue
        summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Name(id=kind) | ast.Attribute(attr=kind), args=[ast.Constant(value=str(name))]
                ) if kind in kinds:
                    yield Declaration(kind, name, node.name, summary, path, node.lineno)


@cache
def fingerprint(path: Path, module: str) -> str:
    """SHA-256 over a file's code and that of the project modules that it imports.

    Comments, docstrings and layout do not count. The releases of the other libraries that the code
    imports do: the same DeepFool of another Foolbox is another attack.
    """
    files: dict[str, Path] = {}
    libraries: set[str] = set()
    _collect(path, module, files, libraries)
    content = hashlib.sha256()
    for name in sorted(files):
        label = "" if name == module else name  # where a plugin lives does not change what it does
        content.update(f"{label}\n{normalised(files[name])}\n".encode())
    for library in sorted(libraries):
        content.update(f"{library}=={release(library)}\n".encode())
    return content.hexdigest()


def normalised(path: Path) -> str:
    """The code of a file without comments, docstrings and layout."""
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
    return ast.unparse(_without_docstrings(path, version))


@cache
def _without_docstrings(path: Path, version: tuple[int, int]) -> ast.Module:
    tree = parse(path)
    for node in [tree, *_statements(tree)]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = [statement for statement in node.body if not _is_docstring(statement)]
            node.body = body or [ast.Pass()]
    return tree


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


def _collect(path: Path, module: str, files: dict[str, Path], libraries: set[str]) -> None:
    if module in files:
        return
    files[module] = path
    own = module.partition(".")[0]
    for name in _imported(path, module, _version(path)):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in _FRAMEWORK:
            continue
        if top not in PROJECT_PACKAGES and top != own and release(top):
            libraries.add(top)
            continue
        source = _source(name)  # the project's, the plugin's own, or a file that no distribution owns
        if source is not None:
            _collect(source, name, files, libraries)


@cache
def _imported(path: Path, module: str, version: tuple[int, int]) -> tuple[str, ...]:
    return tuple(_imports(_without_docstrings(path, version), module, is_package=path.name == "__init__.py"))


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


def _source(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _distributions() -> Mapping[str, list[str]]:
    """The distributions of each top-level module; slow, as it reads the file lists of all of them."""
    return importlib.metadata.packages_distributions()


@cache
def release(library: str) -> str:
    """The installed release of a top-level module; empty where no distribution owns it."""
    if library not in _distributions():
        _distributions.cache_clear()  # it may have been installed since
    distributions = _distributions().get(library, [])
    return ",".join(sorted(f"{name}-{importlib.metadata.version(name)}" for name in distributions))
