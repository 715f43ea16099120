"""Reading YAML 1.2 with the line of every value, and refusing what is not a mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.scalarbool import ScalarBoolean

from benchmark.errors import Problem, UserError

PathInDocument = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A mapping read from a file, or handed over from Python (then without lines)."""

    data: Mapping[str, Any]
    file: str | None = None
    _located: Any = None

    def problem(self, path: PathInDocument, message: str, hint: str | None = None) -> Problem:
        """A problem at a place in the document, with file and line where there are any."""
        return Problem(message, file=self.file, line=self._line(path), hint=hint)

    def _line(self, path: PathInDocument) -> int | None:
        node, line = self._located, None
        for step in path:
            position = getattr(node, "lc", None)
            if position is None or position.data is None or step not in position.data:
                break
            line = position.data[step][0] + 1
            node = node[step]
        return line


def read_yaml(path: Path) -> Document:
    """Read a YAML 1.2 file whose top level is a mapping.

    Raises:
        UserError: It cannot be read, is not YAML, repeats a key, or is not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(Problem(f"cannot be read: {reason}", file=str(path))) from error
    try:
        located = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = str(error.problem or error.context or "not valid YAML").splitlines()[0]
        raise UserError(Problem(f"not valid YAML: {problem}", file=str(path), line=line)) from error
    except YAMLError as error:
        raise UserError(Problem(f"not valid YAML: {str(error).splitlines()[0]}", file=str(path))) from error
    except RecursionError as error:
        raise _too_deep(path) from error
    if not isinstance(located, Mapping):
        kind = "empty" if located is None else f"a {_kind(located)}"
        raise UserError(
            Problem(
                f"the file is {kind}; a grid is a mapping",
                file=str(path),
                line=1,
                hint="see `bench show quick`",
            )
        )
    try:
        return Document(_plain(located), str(path), located)
    except RecursionError as error:
        raise _too_deep(path) from error


def _too_deep(path: Path) -> UserError:
    return UserError(Problem("its lists and mappings are nested too deeply", file=str(path)))


def _kind(value: Any) -> str:
    return "list" if isinstance(value, Sequence) and not isinstance(value, str) else type(value).__name__


def _plain(value: Any) -> Any:
    """Plain Python values: ruamel's own number and string classes remember how they were written."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, ScalarBoolean):  # an int to Python
        return bool(value)
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    return value
