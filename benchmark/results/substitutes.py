"""The substitutes that black-box attackers train, and how good they are: the rows of `substitutes.csv`."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from benchmark.execution.context import ExecutionContext
from benchmark.files.tables import Row
from benchmark.plan.cells import Cell
from benchmark.plan.tasks import Craft
from benchmark.results.cell_outcomes import group_by
from benchmark.results.columns import SUBSTITUTE_COLUMNS


def substitute_rows(cell: Cell, record: Row, context: ExecutionContext) -> Iterable[Row]:
    """One row for each substitute that was attacked instead of the cell's target.

    `own_error` is the substitute's error on the images made against it. If an attack does not even fool the
    substitute, the row says nothing about transfer.
    """
    if record["status"] != "ok":
        return
    errors = json.loads(record["routes"])
    candidates = [candidate for score in cell.scores for candidate in score.candidates]
    for route, members in group_by(candidates, lambda candidate: candidate.route).items():
        crafts = [candidate.craft for candidate in members if isinstance(candidate.craft, Craft)]
        model = crafts[0].surface.target if crafts else None
        if model is None or model.role != "substitute":
            continue
        meta = context.meta(model)
        margins = np.concatenate([context.tensors(craft)["relative_margin"].numpy() for craft in crafts])
        yield {name: record[name] for name in SUBSTITUTE_COLUMNS if name in record} | {
            "route": route,
            "substitute": model.target.name,
            "queries": meta.get("queries", 0),
            "validation_error": meta["validation_error"],
            "own_error": float((margins > 0).mean()),
            "error": errors[route],
        }
