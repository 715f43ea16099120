"""Plans of grids that read no files: no images, and no weights of pretrained classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmark.plan import resolve
from benchmark.plan.grid import GridEntry, load_grid
from benchmark.plan.plan import Plan, make_plan
from benchmark.plan.specs import DatasetSpec, TargetSpec
from benchmark.plugins.registry import Registry

IMAGES = 10_000
"""The number of test images of every data set in such a plan."""


def plan_without_files(name: str, registry: Registry) -> Plan:
    """The plan of a built-in grid, equal on every machine, as keys of pretrained targets omit the weights."""
    with patch.multiple(resolve._Resolver, _dataset=_dataset, _target=_target):
        return make_plan(resolve.resolve(load_grid(name, registry), registry, Path()))


def _dataset(resolver: Any, entry: GridEntry) -> resolve._OpenedDataset:
    source = getattr(entry.config, "source", None) or getattr(entry.plugin, "source", None)
    spec = DatasetSpec(**resolver._common_fields(entry), images="0" * 64, test_size=IMAGES)
    return resolve._OpenedDataset(spec, source, tuple(getattr(entry.plugin, "substitutes", ())))


def _target(resolver: Any, entry: GridEntry) -> TargetSpec:
    return TargetSpec(**resolver._common_fields(entry), trainable=getattr(entry.plugin, "trainable", True))
