"""Plans of grids without any file: no images, no weights of given classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmark import resolve
from benchmark.grid import Choice, load_grid
from benchmark.plan import Plan, make_plan
from benchmark.refs import DatasetRef, TargetRef
from benchmark.registry import Registry

IMAGES = 10_000
"""How many test images every data set has in such a plan."""


def plan_without_files(name: str, registry: Registry) -> Plan:
    """The plan of a built-in grid, the same on every machine: given targets have no weights in their keys."""
    with patch.multiple(resolve._Resolver, _dataset=_dataset, _target=_target):
        return make_plan(resolve.resolve(load_grid(name, registry), registry, Path()))


def _dataset(resolver: Any, choice: Choice) -> tuple[DatasetRef, str | None, Sequence[str]]:
    source = getattr(choice.config, "source", None) or getattr(choice.plugin, "source", None)
    ref = DatasetRef(**resolver._basics(choice), images="0" * 64, test_size=IMAGES)
    return ref, source, tuple(getattr(choice.plugin, "substitutes", ()))


def _target(resolver: Any, choice: Choice) -> TargetRef:
    return TargetRef(**resolver._basics(choice), trainable=getattr(choice.plugin, "trainable", True))
