"""The mutants of a source file: each is the file with one expression or statement changed.

Docstrings, texts, annotations, decorators, assertions and messages of errors stay as they are. So do the
defaults and presets of parameters, because `versions.lock` records them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from benchmark.storage.keys import digest

_COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_OPPOSITES = (
    *(("max", "min"), ("amax", "amin"), ("argmax", "argmin"), ("maximum", "minimum"), ("any", "all")),
    *(("clamp_min", "clamp_max"), ("mean", "sum"), ("ones_like", "zeros_like"), ("floor", "ceil")),
)
_OTHER_CALL = dict(_OPPOSITES) | {other: one for one, other in _OPPOSITES}
_DROPPED = {"abs", "square", "sqrt", "sign", "detach", "round", "log", "flip", "log_softmax", "softmax"} | {
    *("clamp", "clamp_", "clamp_min", "clamp_max", "clamp_min_", "clamp_max_", "cos", "masked_fill"),
}
_ORDERED = {
    "where",
    "choose",
    "lerp",
    "clamp",
    "linspace",
    "mcnemar_less",
    "best_pair",
    "kl_div",
    "psnr",
    "norms",
} | {
    *("_weaker", "_sign_test", "_at_most", "_saliency", "_differ", "_gradient_penalty", "_worse_of"),
    *("_discriminator_loss", "_generator_loss", "_select_by_margin", "_p_value_below", "ImageErrors"),
    *("at_chance", "exchanged_classes", "range", "partial", "add", "take", "gather", "scatter"),
}
"""Functions whose last two arguments are of one type, so that they may be confused."""
_DECLARATIONS = {"param", "train", "infer", "sweep"}
_CONTAINERS = (ast.List, ast.ListComp, ast.Tuple, ast.Dict, ast.DictComp, ast.JoinedStr, ast.Set)
_UNSEEN_KEYWORDS = {"strict", "verbose", "fused", "memory_format", "retain_graph"}


@dataclass(frozen=True)
class Mutant:
    """A source file with one change.

    Attributes:
        path: The file, relative to the repository.
        scope: The function or class of the change; empty at the level of the module.
        line: Number of its first line.
        kind: The kind of change.
        start, end: The changed bytes of the file.
        replacement: The new text.
        before, after: The changed lines, without indentation.
        occurrence: Number of earlier mutants of the file that look the same.
    """

    path: str
    scope: str
    line: int
    kind: str
    start: int
    end: int
    replacement: str
    before: str
    after: str
    occurrence: int = 0

    @cached_property
    def key(self) -> str:
        """Identifies the change by its text, so that it survives changes in other lines."""
        return digest([self.path, self.scope, self.kind, self.before, self.after, self.occurrence])[:12]

    def apply(self, source: str) -> str:
        """The source of the file with the change."""
        text = source.encode()
        return (text[: self.start] + self.replacement.encode() + text[self.end :]).decode()


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of their lines."""
    found: dict[tuple[int, int, str], Mutant] = {}
    counts: dict[tuple[str, ...], int] = {}
    for mutant in sorted(_Finder(path, source).mutants(), key=lambda m: (m.start, m.end, m.replacement)):
        place = (mutant.start, mutant.end, mutant.replacement)
        if place in found:
            continue
        looks = (mutant.scope, mutant.kind, mutant.before, mutant.after)
        number = counts[looks] = counts.get(looks, -1) + 1
        found[place] = replace(mutant, occurrence=number)
    return list(found.values())


def parses(source: str) -> bool:
    """Whether a text is Python."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


class _Finder:
    """Walks the syntax tree of one file."""

    def __init__(self, path: str, source: str) -> None:
        self._path, self._text = path, source.encode()
        self._lines = [0]
        for line in self._text.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._tree = ast.parse(source)

    def mutants(self) -> Iterator[Mutant]:
        yield from self._visit(self._tree, "", None)

    def _visit(self, node: ast.AST, scope: str, parent: ast.AST | None) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}".lstrip(".")
        for kind, start, end, replacement in self._changes(node, parent):
            yield self._mutant(scope, kind, start, end, replacement)
        for child in _children(node):
            yield from self._visit(child, scope, node)

    def _mutant(self, scope: str, kind: str, start: int, end: int, replacement: str) -> Mutant:
        first = max(offset for offset in self._lines if offset <= start)
        last = min((offset for offset in self._lines if offset >= end), default=len(self._text))
        before, head, tail = self._text[first:last], self._text[first:start], self._text[end:last]
        after = head + replacement.encode() + tail
        line = self._lines.index(first) + 1
        old, new = (" ".join(text.decode().split()) for text in (before, after))
        return Mutant(self._path, scope, line, kind, start, end, replacement, old, new)

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _source(self, node: ast.expr) -> str:
        return self._text[self._start(node) : self._end(node)].decode()

    def _changes(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        for finder in _FINDERS:
            yield from finder(self, node, parent)

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[tuple[int, int, str]]:
        """Replace an operator between two expressions."""
        start, stop = self._end(left), self._start(right)
        gap = self._text[start:stop].decode()
        if "#" in gap:
            return
        pattern = re.escape(old).replace(r"\ ", r"\s+")
        if old[0].isalpha():
            pattern = rf"\b{pattern}\b"
        if (found := re.search(pattern, gap)) is not None:
            yield start + len(gap[: found.start()].encode()), start + len(gap[: found.end()].encode()), new

    def _replace(self, kind: str, node: ast.expr, text: str) -> tuple[str, int, int, str]:
        return kind, self._start(node), self._end(node), text

    # --- kinds of change --------------------------------------------------------------------------

    def comparisons(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
                old, *others = _COMPARISONS[type(operator)]
                for new in others:
                    for change in self._between(left, right, old, new):
                        yield "comparison", *change

    def arithmetic(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        if not isinstance(node, ast.BinOp | ast.AugAssign) or type(node.op) not in _ARITHMETIC:
            return
        old, new = _ARITHMETIC[type(node.op)]
        if isinstance(node, ast.BinOp):
            if isinstance(node.left, _CONTAINERS) or isinstance(node.right, _CONTAINERS) or _is_text(node):
                return
            changes = self._between(node.left, node.right, old, new)
        else:
            if isinstance(node.value, _CONTAINERS):
                return
            changes = self._between(node.target, node.value, f"{old}=", f"{new}=")
        for change in changes:
            yield "arithmetic", *change

    def logic(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                for change in self._between(left, right, old, new):
                    yield "logic", *change
            for dropped in range(len(node.values)):
                kept = [self._source(value) for i, value in enumerate(node.values) if i != dropped]
                if all(isinstance(value, ast.Name | ast.Call | ast.Attribute | ast.Compare | ast.UnaryOp)
                       for value in node.values):  # fmt: skip
                    yield self._replace("dropped condition", node, f"({f' {old} '.join(kept)})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert | ast.USub):
            yield self._replace("dropped operator", node, f"({self._source(node.operand)})")

    def conditions(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        tests: list[ast.expr] = []
        if isinstance(node, ast.If | ast.IfExp):
            tests = [node.test]
        elif isinstance(node, ast.comprehension):
            tests = node.ifs
        for test in tests:
            if not (isinstance(test, ast.UnaryOp | ast.NamedExpr) or _is_plain_comparison(test)):
                yield self._replace("negated", test, f"(not ({self._source(test)}))")

    def constants(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        if not isinstance(node, ast.Constant):
            return
        value, others = node.value, list[str]()
        if isinstance(value, bool):
            others = [str(not value)]
        elif isinstance(parent, ast.keyword) and parent.arg == "dim" and isinstance(value, int):
            others = ["0" if value == 1 else "1"]
        elif isinstance(value, int):
            others = ["1"] if value == 0 else [str(value + 1), str(value - 1)]
        elif isinstance(value, float):
            others = [repr(2 * value), repr(value / 2)] if value else ["1.0"]
        for other in others:
            yield self._replace("constant", node, other)

    def calls(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        if not isinstance(node, ast.Call):
            return
        name = _called(node)
        end = self._end(node.func)
        if name in _OTHER_CALL:
            yield "other call", end - len(name), end, _OTHER_CALL[name]
        if name in _DROPPED and isinstance(node.func, ast.Attribute) and _is_value(node.func.value):
            yield self._replace("dropped call", node, f"({self._source(node.func.value)})")
        if len(node.args) > 1 and name in _ORDERED:
            one, other = node.args[-2:]
            middle = self._text[self._end(one) : self._start(other)].decode()
            swapped = self._source(other) + middle + self._source(one)
            if "#" not in middle and swapped.count("(") == swapped.count(")"):
                yield "swapped arguments", self._start(one), self._end(other), swapped

    def slices(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, ast.Slice):
            for bound in (node.lower, node.upper):
                if bound is not None and not (isinstance(bound, ast.Constant) and bound.value == 0):
                    yield self._replace("dropped bound", bound, "")

    def statements(self, node: ast.AST, parent: ast.AST | None) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, ast.stmt) and _may_go(node):
            yield "dropped statement", self._start(node), self._end(node), "pass"


_Changes = Iterator[tuple[str, int, int, str]]
_FINDERS: tuple[Callable[[_Finder, ast.AST, ast.AST | None], _Changes], ...] = (
    _Finder.comparisons,
    _Finder.arithmetic,
    _Finder.logic,
    _Finder.conditions,
    _Finder.constants,
    _Finder.calls,
    _Finder.slices,
    _Finder.statements,
)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node in which mutants are looked for."""
    if isinstance(node, ast.Assert | ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Call) and _called(node) in _DECLARATIONS:
        return
    if isinstance(node, ast.AnnAssign) and _called_name(node.target) in ("presets", "per_dataset"):
        return
    left_out = ("decorator_list", "annotation", "returns", "type_params", "bases")
    for name, value in ast.iter_fields(node):
        if name in left_out or (name == "test" and _called_name(value) == "TYPE_CHECKING"):
            continue
        for child in value if isinstance(value, list) else [value]:
            unseen = isinstance(child, ast.keyword) and child.arg in _UNSEEN_KEYWORDS
            if isinstance(child, ast.AST) and not unseen:
                yield child


def _called(node: ast.Call) -> str:
    return _called_name(node.func)


def _called_name(node: object) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_value(node: ast.expr) -> bool:
    """Whether the expression before a method is a value and not a module."""
    return not (isinstance(node, ast.Name) and node.id in ("torch", "math", "np", "F"))


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(n, ast.Constant) and isinstance(n.value, str) for n in (node.left, node.right))


def _is_plain_comparison(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) and len(node.ops) == 1


def _may_go(node: ast.stmt) -> bool:
    """Whether a statement can be removed, so that the rest still has all its names."""
    if isinstance(node, ast.Raise | ast.Continue | ast.Break | ast.AugAssign):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    if not isinstance(node, ast.Assign):
        return False
    (target, *more), read = node.targets, {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    if more:
        return False
    return isinstance(target, ast.Attribute | ast.Subscript) or (
        isinstance(target, ast.Name) and target.id in read
    )
