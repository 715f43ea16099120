"""Reads source files without running them: the plugins that they declare and the versions that they state."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.plugins.opened_files import unwatched


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


@dataclass(frozen=True)
class SourceFile:
    """A parsed file.

    Attributes:
        versions: The versions that its classes state, by title, e.g. "defense ape-gan".
        code: Its syntax tree without the parts that no result depends on, see `fingerprint`.
    """

    declarations: tuple[Declaration, ...]
    versions: Mapping[str, int]
    code: ast.Module


def declarations(path: Path, kinds: Iterable[str]) -> Iterator[Declaration]:
    """The plugins of these kinds that a file declares, read from its decorators without running it.

    Raises:
        UserError: The file cannot be read or is not valid Python; names file and line.
    """
    kinds = frozenset(kinds)
    found = read_source(path, file_stamp(path)).declarations
    return (declaration for declaration in found if declaration.kind in kinds)


def file_stamp(path: Path) -> tuple[int, int]:
    """Modification time and size: with it in the cache key, a file is read again only after a change."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)  # reading the file raises an error that says what is wrong
    return (status.st_mtime_ns, status.st_size)


@cache
def read_source(path: Path, stamp: tuple[int, int]) -> SourceFile:
    """Parse a file, once for each `file_stamp`; raises as `declarations`."""
    tree = _parse(path)
    declared = tuple(_find_declarations(tree, path))
    versions = dict(_stated_versions(tree, declared))
    for node in [tree, *statements(tree)]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = [statement for statement in node.body if not _is_docstring(statement)]
            node.body = body or [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # no built-in code reads annotations
            node.returns = None
            for parameter in ast.walk(node.args):
                if isinstance(parameter, ast.arg):
                    parameter.annotation = None
        if isinstance(node, ast.Raise) and node.exc is not None:
            _MessageRemover().visit(node.exc)
    return SourceFile(declared, versions, tree)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements below a node; `ast.walk`, which visits expressions too, takes several times as long."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        block = getattr(node, name, ())
        if isinstance(block, list):  # in a lambda or a conditional expression it is a single expression
            for statement in block:
                yield statement
                yield from statements(statement)


def _parse(path: Path) -> ast.Module:
    try:
        with unwatched():
            text = path.read_text(encoding="utf-8")
        return ast.parse(text, filename=str(path))
    except OSError as error:
        raise UserError(Problem(f"cannot read the plugin file: {error.strerror}", file=str(path))) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem("the plugin file is not UTF-8 text", file=str(path))) from error
    except SyntaxError as error:
        problem = Problem(f"not valid Python: {error.msg}", file=str(path), line=error.lineno)
        raise UserError(problem) from error


def _find_declarations(tree: ast.Module, path: Path) -> Iterator[Declaration]:
    """The classes whose decorator is called with a literal name; `kind` is the name of the decorator."""
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


def _stated_versions(tree: ast.Module, declared: Iterable[Declaration]) -> Iterator[tuple[str, int]]:
    """Titles and versions of plugins, task kinds (classes with `kind`) and threats (classes with `name`)."""
    plugins = {declaration.attribute: f"{declaration.kind} {declaration.name}" for declaration in declared}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        constants: dict[str, Any] = {}
        for statement in node.body:
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value))
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value))
                ):
                    constants[name] = value
        task, threat = (constants.get(name) for name in ("kind", "name"))
        title = plugins.get(node.name) or (task and f"task {task}") or (threat and f"threat {threat}")
        if title and isinstance(constants.get("version"), int):
            yield str(title), constants["version"]


class _MessageRemover(ast.NodeTransformer):
    """Empties the texts in a raised expression: no result depends on the wording of a message."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return ast.Constant("")


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)
