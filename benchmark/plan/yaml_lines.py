"""Reading YAML 1.2 files whose top level is a mapping, with the line of every value."""

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
    """A mapping read from a file, or passed from Python (then it has no lines)."""

    data: Mapping[str, Any]
    file: str | None = None
    _located: Any = None

    def problem(self, path: PathInDocument, message: str, hint: str | None = None) -> Problem:
        """A problem at a place in the document, with file and line if known."""
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
    """Read a file; a `UserError` if it cannot be read, is not YAML, repeats a key, or is not a mapping."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    def fault(message: str, line: int | None = None, hint: str | None = None) -> UserError:
        return UserError(Problem(message, file=str(path), line=line, hint=hint))

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise fault(f"cannot be read: {reason}") from error
    try:
        located = YAML(typ="rt").load(text)
        data = _plain(located) if isinstance(located, Mapping) else None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = str(error.problem or error.context or "not valid YAML").splitlines()[0]
        raise fault(f"not valid YAML: {problem}", line) from error
    except YAMLError as error:
        raise fault(f"not valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise fault("its lists and mappings are nested too deeply") from error
    if data is None:
        kind = "empty" if located is None else f"a {_kind(located)}"
        raise fault(f"the file is {kind}; a grid is a mapping", line=1, hint="see `bench show quick`")
    return Document(data, str(path), located)


def _kind(value: Any) -> str:
    return "list" if isinstance(value, Sequence) and not isinstance(value, str) else type(value).__name__


def _plain(value: Any) -> Any:
    """Convert values read by ruamel to plain Python values, without the information how they were written."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, ScalarBoolean):  # a subclass of int, so this comes before the loop
        return bool(value)
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    return value
