"""How good the classifiers are that attackers train in place of a target: a table of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from benchmark.cells import Cell
from benchmark.records import Row
from benchmark.tasks import Craft
from benchmark.work.workshop import Workshop

COLUMNS = (
    *("dataset", "target", "target_config", "defense", "defense_config", "attack", "attack_config", "eps"),
    *("threat", "route", "substitute", "queries", "validation_error", "own_error", "error"),
)
"""The columns of `substitutes.csv`, in order."""


def substitute_rows(cell: Cell, row: Row, workshop: Workshop) -> Iterable[Row]:
    """One row for each classifier that was attacked in place of the cell's target; none for other cells.

    `own_error` is the classifier's own error on the images that were made against it: an attack that does not
    fool even that one says nothing about what it did not transfer to.
    """
    if row["status"] != "ok":
        return
    errors = json.loads(row["routes"])
    for route, crafts in _crafts(cell).items():
        model = crafts[0].surface.target
        if model.role != "substitute":
            continue
        meta = workshop.meta(model)
        lead = np.concatenate([workshop.tensors(craft)["relative_margin"].numpy() for craft in crafts])
        yield {name: row[name] for name in COLUMNS if name in row} | {
            "route": route,
            "substitute": model.target.name,
            "queries": meta.get("queries", 0),
            "validation_error": meta["validation_error"],
            "own_error": float((lead > 0).mean()),
            "error": errors[route],
        }


def _crafts(cell: Cell) -> dict[str, list[Craft]]:
    """The crafts of each route, shard by shard."""
    found: dict[str, list[Craft]] = {}
    for score in cell.scores:
        for candidate in score.candidates:
            if isinstance(candidate.craft, Craft):
                found.setdefault(candidate.route, []).append(candidate.craft)
    return found
