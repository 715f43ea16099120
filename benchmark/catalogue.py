"""`bench list` and `bench show`: what there is, in words."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from benchmark.errors import UserError, nearest
from benchmark.plugin import Config
from benchmark.registry import KINDS, Entry, default_registry


def catalogue(kind: str | None, plugins: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """For each kind (or one of them) its title and a line for each member.

    Raises:
        UserError: There is no such kind.
    """
    registry = default_registry(plugins)
    sections = {f"{k}s": [_line(e.name, e.summary) for e in registry.entries(k)] for k in KINDS}
    sections["threats"] = _threat_lines()
    sections["grids"] = _grid_lines()
    if kind is None:
        yield from sections.items()
    elif kind in sections or f"{kind}s" in sections:
        title = kind if kind in sections else f"{kind}s"
        yield title, sections[title]
    else:
        raise UserError(f"unknown kind {kind!r}", hint=nearest(kind, sections))


def explain(name: str, plugins: Sequence[Path]) -> str:
    """Everything of that name: plugins of any kind, threats, built-in grids.

    Raises:
        UserError: Nothing has that name.
    """
    from benchmark.grid import GRIDS, builtin_grids

    registry = default_registry(plugins)
    found = [describe(registry.get(kind, name)) for kind in KINDS if name in registry.names(kind)]
    from benchmark.threats import ALIASES, THREATS

    threat = THREATS.get(ALIASES.get(name, name))
    if threat is not None:
        parameters = ", ".join(threat.config_type.model_fields)
        found.append(f"threat {threat.name}\n\nThe attacker {threat.meaning}.\n\nparameters: {parameters}")
    if name in builtin_grids():
        path = GRIDS / f"{name}.yaml"
        found.append(f"grid {name} ({path})\n\n{path.read_text(encoding='utf-8').rstrip()}")
    if not found:
        names = [n for kind in KINDS for n in registry.names(kind)] + [*THREATS, *builtin_grids()]
        raise UserError(f"nothing is named {name!r}", hint=nearest(name, names))
    return "\n\n".join(found)


def _line(name: str, summary: str) -> str:
    return f"{name:<17} {summary}"


def _threat_lines() -> list[str]:
    from benchmark.threats import THREATS

    return [_line(threat.name, threat.meaning) for threat in THREATS.values()]


def _grid_lines() -> list[str]:
    from benchmark.grid import GRIDS, builtin_grids

    lines = []
    for name in builtin_grids():
        first = (GRIDS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        lines.append(_line(name, first.removeprefix("# ")))
    return lines


def describe(entry: Entry) -> str:
    """A plugin in words: where it is declared, its docstring, its parameters with defaults and bounds."""
    plugin = entry.load()
    parts = [f"{entry.kind} {entry.name} ({entry.origin})", inspect.getdoc(plugin) or ""]
    config = plugin.config_type()
    if config.model_fields:
        documented = inspect.getdoc(config)
        parts.append("parameters" + (f": {documented}" if documented else ""))
        parts[-1] += "".join(f"\n  {name} = {_default(field)}" for name, field in config.model_fields.items())
        parts += [
            f"{title}: " + ", ".join(f"{name} = {value!r}" for name, value in values.items())
            for title, values in _other_defaults(config)
        ]
    return "\n\n".join(part for part in parts if part)


def _other_defaults(config: type[Config]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The presets, and the data sets that have defaults of their own."""
    yield from ((f"preset {name}", values) for name, values in config.presets.items())
    yield from ((f"on {name}", values) for name, values in config.per_dataset.items())


def _default(field: FieldInfo) -> str:
    bounds = ", ".join(str(bound) for bound in field.metadata)
    default = "(required)" if field.is_required() else repr(field.default)
    return f"{default}  {bounds}".rstrip()
