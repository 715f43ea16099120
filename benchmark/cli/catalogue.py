"""`bench list` and `bench show`: plugins, threats and built-in grids as text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic.fields import FieldInfo

from benchmark.errors import UserError, nearest
from benchmark.plan.grid import GRIDS, builtin_grids
from benchmark.plan.threats import ALIASES, THREATS
from benchmark.plugins.registry import KINDS, Entry, default_registry


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
        yield name, [f"{member:<17} {summary}" for member, summary in sections[name]]


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
        parameters = ", ".join(threat.config_type.model_fields)
        found.append(f"threat {threat.name}\n\nThe attacker {threat.meaning}.\n\nparameters: {parameters}")
    if name in builtin_grids():
        found.append(f"grid {name} ({GRIDS / f'{name}.yaml'})\n\n{_grid_text(name).rstrip()}")
    if not found:
        names = [n for kind in KINDS for n in registry.names(kind)] + [*THREATS, *builtin_grids()]
        raise UserError(f"nothing is named {name!r}", hint=nearest(name, names))
    return "\n\n".join(found)


def describe_plugin(entry: Entry) -> str:
    """Describe a plugin: where it is declared, its docstring, its parameters with defaults and bounds."""
    plugin = entry.load()
    parts = [f"{entry.kind} {entry.name} ({entry.origin})", inspect.getdoc(plugin) or ""]
    config = plugin.config_type()
    if config.model_fields:
        docstring = inspect.getdoc(config)
        lines = ["parameters" + (f": {docstring}" if docstring else "")]
        lines += [f"  {name} = {_default(field)}" for name, field in config.model_fields.items()]
        parts.append("\n".join(lines))
        for word, defaults in (("preset", config.presets), ("on", config.per_dataset)):
            for title, values in defaults.items():
                parts.append(
                    f"{word} {title}: " + ", ".join(f"{n} = {value!r}" for n, value in values.items())
                )
    return "\n\n".join(part for part in parts if part)


def _default(field: FieldInfo) -> str:
    bounds = ", ".join(str(bound) for bound in field.metadata)
    default = "(required)" if field.is_required() else repr(field.default)
    return f"{default}  {bounds}".rstrip()
