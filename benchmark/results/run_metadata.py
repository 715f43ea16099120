"""The content of `run.json`: what was run, with which code, libraries and settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.execution.context import ExecutionContext, address
from benchmark.execution.provenance import summarise
from benchmark.plan.cells import Cell
from benchmark.plan.grid import Grid
from benchmark.storage.environment import provenance
from benchmark.storage.keys import SCHEMA

_COMPARED_KINDS = ("craft", "purify", "score")
"""Kinds of tasks that must have run the same code for all published rows that are compared."""


def run_metadata(
    grid: Grid, cells: Sequence[Cell], context: ExecutionContext, out: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a run in the folder `out` as JSON; `settings` are further entries."""
    datasets = {cell.dataset.title: cell.dataset.resolved for cell in cells}
    return {
        "schema": SCHEMA,
        "name": grid.name,
        "grid": grid.data,
        **_grid_files(grid, out),
        **settings,
        "made": summarise(_made(cells, context)),
        "resolved": {"datasets": datasets, "cells": [cell.identity | {"key": cell.key} for cell in cells]},
        **provenance(str(context.device)),
    }


def _made(cells: Sequence[Cell], context: ExecutionContext) -> Iterator[Mapping[str, Any]]:
    """The code and environment that made each stored attack and score of the cells."""
    scores = [score for cell in cells for score in cell.scores]
    tasks = [task for score in scores for task in (score, *score.needs())]
    for task in {task.key: task for task in tasks if task.kind in _COMPARED_KINDS}.values():
        if (metadata := context.store.meta(address(task))) is not None:
            yield metadata.get("made") or {}


def _grid_files(grid: Grid, out: Path) -> dict[str, Any]:
    """The parameters that name files and, if a path is relative, the folder that it is relative to.

    That folder is private, so it is left out if the grid does not need it.
    """
    metadata: dict[str, Any] = {"files": sorted({title for title, _ in grid.files})} if grid.files else {}
    if any(not path.is_absolute() for _, path in grid.files):
        metadata["grid_folder"] = os.path.relpath(grid.folder, out.resolve())
    return metadata
