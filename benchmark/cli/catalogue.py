"""`bench list` and `bench show`: plugins, threats and built-in grids as text."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from benchmark.errors import UserError, nearest
from benchmark.plan.grid import GRIDS, builtin_grids
from benchmark.plan.threats import ALIASES, THREATS
from benchmark.plugins.plugin import Config
from benchmark.plugins.registry import KINDS, Entry, default_registry

_THREATS = "benchmark.plan.threats."

_BOUNDS = {
    "ge": "≥ {}",
    "gt": "> {}",
    "le": "≤ {}",
    "lt": "< {}",
    "multiple_of": "a multiple of {}",
    "min_length": "length ≥ {}",
    "max_length": "length ≤ {}",
    "pattern": "pattern {}",
}
"""How a bound is shown, by the attribute that has it in the metadata of a field."""


def catalogue(kind: str | None, plugins: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """List plugins, threats and grids: for each kind, or the given one, its title and a line per member.

    Raises:
        UserError: There is no such kind.
    """
    registry = default_registry(plugins)
    sections = {f"{k}s": [(entry.name, entry.summary) for entry in registry.entries(k)] for k in KINDS}
    sections["threats"] = [(threat.name, threat.meaning) for threat in THREATS.values()]
    comments = {name: _grid_text(name).splitlines()[0].removeprefix("# ") for name in builtin_grids()}
    sections["grids"] = list(comments.items())
    title = kind if kind is None or kind in sections else f"{kind}s"
    if title is not None and title not in sections:
        raise UserError(f"unknown kind {kind!r}", hint=nearest(kind or "", sections))
    for name in sections if title is None else [title]:
        width = max((len(member) for member, _ in sections[name]), default=0)
        yield name, [f"{member:<{width}}  {summary}" for member, summary in sections[name]]


def _grid_text(name: str) -> str:
    return (GRIDS / f"{name}.yaml").read_text(encoding="utf-8")


def show(name: str, plugins: Sequence[Path]) -> str:
    """Describe everything that has this name: plugins of any kind, a threat, a built-in grid.

    Raises:
        UserError: Nothing has that name.
    """
    registry = default_registry(plugins)
    found = [describe_plugin(registry.get(kind, name)) for kind in KINDS if name in registry.names(kind)]
    threat = THREATS.get(ALIASES.get(name, name))
    if threat is not None:
        parts = [f"threat {threat.name}", f"The attacker {threat.meaning}."]
        bases = [
            base for base in reversed(threat.config_type.__mro__) if base.__module__.startswith(_THREATS)
        ]
        described = "\n\n".join(inspect.cleandoc(base.__doc__) for base in bases if base.__doc__)
        found.append("\n\n".join([*parts, *_describe_parameters(threat.config_type, described)]))
    if name in builtin_grids():
        found.append(f"grid {name} ({GRIDS / f'{name}.yaml'})\n\n{_grid_text(name).rstrip()}")
    if not found:
        names = {n for kind in KINDS for n in registry.names(kind)} | {*THREATS, *ALIASES, *builtin_grids()}
        hint = nearest(name, names)
        hint = hint if hint.startswith("did you mean") else "`bench list` shows all names"
        message = f"there is no plugin, threat or built-in grid {name!r}"
        raise UserError(message, hint=hint)
    return "\n\n".join(found)


def describe_plugin(entry: Entry) -> str:
    """Describe a plugin: where it is declared, its docstring, its parameters with defaults and bounds."""
    plugin = entry.load()
    parts = [f"{entry.kind} {entry.name} ({entry.origin})", inspect.getdoc(plugin) or ""]
    config = plugin.config_type()
    parts += _describe_parameters(config, inspect.getdoc(config) or "")
    return "\n\n".join(part for part in parts if part)


def _describe_parameters(config: type[Config], described: str) -> list[str]:
    """The parameters with defaults and bounds, and the values of each preset and data set; one part each."""
    if not config.model_fields:
        return []
    lines = ["parameters" + (f": {described}" if described else "")]
    lines += [f"  {name} = {_default(field)}" for name, field in config.model_fields.items()]
    parts = ["\n".join(lines)]
    for word, values in (("preset", config.presets), ("on", config.per_dataset)):
        parts += [f"{word} {title}: {_assignments(changed)}" for title, changed in values.items()]
    return parts


def _assignments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in values.items())


def _value(value: object) -> str:
    """A value as it is written in a grid file: `null`, `true`, a number or text without quotes."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=repr)


def _default(field: FieldInfo) -> str:
    default = "(required)" if field.is_required() else _value(field.get_default(call_default_factory=True))
    limits = [*_choices(field.annotation), *(text for bound in field.metadata for text in _bounds(bound))]
    return f"{default}  ({', '.join(limits)})" if limits else default


def _bounds(bound: object) -> Iterator[str]:
    """The bounds in one member of the metadata of a field; nothing if it is no bound."""
    for name, text in _BOUNDS.items():
        value = getattr(bound, name, None)
        if value is not None and not callable(value):
            yield text.format(value)


def _choices(annotation: Any) -> Iterator[str]:
    """The values that a parameter accepts, if its type lists them."""
    for member in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(member) is typing.Literal:
            *others, last = (_value(value) for value in typing.get_args(member))
            yield f"{', '.join(others)} or {last}" if others else f"only {last}"
