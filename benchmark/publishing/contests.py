"""What is wrong with rows beside each other: what they met, how many images, which controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.errors import UserError
from benchmark.evidence import grouped
from benchmark.keys import canonical
from benchmark.publishing.boards import contest
from benchmark.publishing.run import RunOf
from benchmark.records import Row
from benchmark.registry import KINDS, Registry


def controls(registry: Registry) -> dict[str, str]:
    """The harness's own placebos, each with its parameters as the records have them."""
    found = {}
    for entry in registry.entries("defense"):
        plugin = entry.load()
        if getattr(plugin, "control", False) and plugin.__module__.startswith(f"{KINDS['defense']}."):
            found[entry.name] = canonical(plugin.config_type()().model_dump(mode="json"))
    return found


def contest_problems(rows: Sequence[Row], run_of: RunOf, needed: Mapping[str, str]) -> Iterator[str]:
    """What speaks against ranking the rows of each contest beside each other.

    Args:
        rows: Rows of which each is sound by itself.
        run_of: The run that a row rests on.
        needed: The controls with their parameters.
    """
    for group in grouped(rows, contest):
        first = group[0]
        where = f"{first['dataset']}, {first['target']}, {first['threat']} {first['norm']} {first['eps']:g}"
        for problem in (*_sizes(group), *_missing(group, needed), *_unequal(group, run_of)):
            yield f"{where}: {problem}"


def _sizes(group: Sequence[Row]) -> Iterator[str]:
    sizes: dict[int, list[Row]] = {}
    for row in group:
        if row["bound"] == "found":
            sizes.setdefault(row["n"], []).append(row)
    if len(sizes) > 1:
        told = "; ".join(f"{n}: {names(members)}" for n, members in sorted(sizes.items()))
        yield f"rows are ranked on different numbers of images ({told})"


def _missing(group: Sequence[Row], needed: Mapping[str, str]) -> Iterator[str]:
    """Controls that are not there, or were run with other parameters than the fixed ones."""
    there = {(row["defense"], row["defense_config"]) for row in group if row["control"]}
    missing = [name for name, config in needed.items() if (name, config) not in there]
    if missing:
        yield f"no control {', '.join(missing)}; name them among the grid's defenses, as they are"


def _unequal(group: Sequence[Row], run_of: RunOf) -> Iterator[str]:
    """Rows of other images, or that met fewer attacks than another; a control may have met fewer.

    That makes a control seem to err less, and so harder to beat.
    """
    try:
        images = {run_of(row).images(row["dataset"]) for row in group}
        met = [(row, run_of(row).attacks(row)) for row in group]
    except UserError as error:
        yield str(error)
        return
    if len(images) > 1:
        yield "rows are of different images, which only have the same name"
    everything: set[tuple[Any, ...]] = set().union(*(attacks for _, attacks in met))
    for row, attacks in met:
        lacking = everything - attacks
        if lacking and not row["control"]:
            others = [other for other, theirs in met if lacking & theirs]
            example = sorted(lacking, key=str)[0]
            yield (
                f"{row['defense']} did not meet {len(lacking)} of the attacks that {names(others)} met, such "
                f"as {example[0]} {example[2]} {example[3]}: run one grid with all of them"
            )


def names(rows: Sequence[Row]) -> str:
    """The defenses of rows."""
    return ", ".join(dict.fromkeys(row["defense"] for row in rows))
