"""`bench new`: writes a small working plugin and its test from templates."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmark.errors import Problem, UserError, nearest
from benchmark.plugins.fingerprint import PROJECT_PACKAGES, release
from benchmark.plugins.registry import default_registry

_TEMPLATES = Path(__file__).parents[1] / "templates"

_KINDS = ("defense",)
"""Kinds of plugins that have templates."""

_TAKEN = frozenset({"Config", "Defense", "Noise", "Tensor", "None", "True", "False"})
"""Names that the template uses, so its class cannot have them."""


def write_plugin(kind: str, name: str, out: Path) -> tuple[Path, Path]:
    """Write a plugin and its test to the folder `out`, and return the two files.

    Raises:
        UserError: The kind has no template, the name cannot be used, or a file exists already.
    """
    if kind not in _KINDS:
        raise UserError(f"`bench new` has no template for {kind!r}", hint=nearest(kind, _KINDS))
    stem = _checked_stem(kind, name)
    camel = "".join(word.capitalize() for word in name.split("-"))
    class_name = camel + kind.capitalize() if camel in _TAKEN else camel
    values = {"@name@": name, "@file@": stem, "@class@": class_name}
    plugin, test = out / f"{stem}.py", out / f"test_{stem}.py"
    templates = {plugin: f"{kind}.py.txt", test: f"test_{kind}.py.txt"}
    existing = [Problem("exists already; nothing was written", file=str(p)) for p in templates if p.exists()]
    if existing:
        raise UserError(existing)
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


def _checked_stem(kind: str, name: str) -> str:
    """The name of the plugin file without its suffix."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise UserError(
            f"{name!r} is not a valid name for a {kind}",
            hint="use lower-case letters, digits and hyphens, with a letter first, e.g. my-purifier",
        )
    registry = default_registry()
    if name in registry.names(kind):
        raise UserError(f"there is a {kind} {name!r} already: {registry.get(kind, name).origin}")
    stem = name.replace("-", "_")
    if stem in sys.stdlib_module_names or stem in PROJECT_PACKAGES or release(stem):
        raise UserError(f"a file {stem}.py would hide the module {stem!r}", hint="choose another name")
    return stem
