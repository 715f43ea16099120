"""Checks that ranked rows are comparable: same images, same attacks, all controls present."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from benchmark.errors import UserError
from benchmark.files.tables import Row
from benchmark.plugins.registry import KINDS, Registry
from benchmark.publishing.board_files import board_group
from benchmark.publishing.published_run import RunOf
from benchmark.results.cell_outcomes import group_by
from benchmark.storage.keys import canonical


def control_configs(registry: Registry) -> dict[str, str]:
    """The control defenses of this repository: default parameters as canonical JSON, by name."""
    configs = {}
    for entry in registry.entries("defense"):
        plugin = entry.load()
        if getattr(plugin, "control", False) and plugin.__module__.startswith(f"{KINDS['defense']}."):
            configs[entry.name] = canonical(plugin.config_type()().model_dump(mode="json"))
    return configs


def comparability_problems(rows: Sequence[Row], run_of: RunOf, controls: Mapping[str, str]) -> Iterator[str]:
    """Reasons why rows of one group must not be ranked against each other.

    The rows have no problems of their own; `control_configs` returns the `controls`, which are required.
    """
    for group in group_by(rows, board_group).values():
        first = group[0]
        where = f"{first['dataset']}, {first['target']}, {first['threat']} {first['norm']} {first['eps']:g}"
        yield from (f"{where}: {problem}" for problem in _group_problems(group, run_of, controls))


def _group_problems(group: Sequence[Row], run_of: RunOf, controls: Mapping[str, str]) -> Iterator[str]:
    by_size = group_by((row for row in group if row["bound"] == "found"), itemgetter("n"))
    if len(by_size) > 1:
        sizes = "; ".join(f"{n}: {_defense_names(rows)}" for n, rows in sorted(by_size.items()))
        yield f"rows are ranked on different numbers of images ({sizes})"
    present = {(row["defense"], row["defense_config"]) for row in group if row["control"]}
    missing = [name for name, config in controls.items() if (name, config) not in present]
    if missing:
        yield f"no control {', '.join(missing)}; add it to the grid's defenses with its default parameters"
    try:
        images = {run_of(row).images(row["dataset"]) for row in group}
        attacked = [(row, run_of(row).attacks(row)) for row in group]
    except UserError as error:
        yield str(error)
        return
    if len(images) > 1:
        yield "rows are on different images under the same data set name"
    all_attacks: set[tuple[Any, ...]] = set().union(*(attacks for _, attacks in attacked))
    for row, attacks in attacked:
        lacking = all_attacks - attacks
        # a control may have fewer attacks: it then seems to err less, and is harder to beat
        if lacking and not row["control"]:
            others = [other for other, other_attacks in attacked if lacking & other_attacks]
            example = min(lacking, key=str)
            yield (
                f"{row['defense']} lacks {len(lacking)} of the attacks on {_defense_names(others)}, such as "
                f"{example[0]} {example[2]} {example[3]}: run one grid with all of them"
            )


def _defense_names(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(row["defense"] for row in rows))
