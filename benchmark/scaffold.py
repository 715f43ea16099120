"""`bench new`: a small working plugin to start from, and its test."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmark.code import PROJECT_PACKAGES, release
from benchmark.errors import Problem, UserError, nearest
from benchmark.registry import default_registry

_TEMPLATES = Path(__file__).parent / "templates"

_KINDS = ("defense",)
"""What there are templates of."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")

_TAKEN = frozenset({"Config", "Defense", "Noise", "Tensor", "None", "True", "False"})
"""Names that a class of a template cannot have."""


def write_new(kind: str, name: str, out: Path) -> tuple[Path, Path]:
    """Write a plugin and its test; returns the two files.

    Args:
        kind: What to write.
        name: The name that it is registered under.
        out: The folder, which is made where it is not there.

    Raises:
        UserError: There is no template, the name is no good, or a file is there already.
    """
    if kind not in _KINDS:
        raise UserError(f"nothing to start a {kind!r} from", hint=nearest(kind, _KINDS))
    stem = _checked(kind, name)
    values = {"@name@": name, "@file@": stem, "@class@": _class_name(name, kind)}
    plugin, test = out / f"{stem}.py", out / f"test_{stem}.py"
    templates = {plugin: f"{kind}.py.txt", test: f"test_{kind}.py.txt"}
    there = [path for path in templates if path.exists()]
    if there:
        raise UserError([Problem("is there already; nothing was written", file=str(path)) for path in there])
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, template in templates.items():
            text = (_TEMPLATES / template).read_text(encoding="utf-8")
            for key, value in values.items():
                text = text.replace(key, value)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    return plugin, test


def _checked(kind: str, name: str) -> str:
    """The name of the file without its suffix."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a {kind}",
            hint="small letters, digits and hyphens, with a letter first: my-purifier",
        )
    registry = default_registry()
    if name in registry.names(kind):
        raise UserError(f"there is a {kind} {name!r}: {registry.get(kind, name).origin}")
    stem = name.replace("-", "_")
    if stem in sys.stdlib_module_names or stem in PROJECT_PACKAGES or release(stem):
        raise UserError(f"a file {stem}.py would hide the module {stem!r}", hint="choose another name")
    return stem


def _class_name(name: str, kind: str) -> str:
    camel = "".join(word.capitalize() for word in name.split("-"))
    return camel + kind.capitalize() if camel in _TAKEN else camel
