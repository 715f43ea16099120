"""Plans of grids without any file: no images, no weights of given classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.grid import Choice, load_grid
from benchmark.plan import Plan, make_plan
from benchmark.refs import DatasetRef, TargetRef
from benchmark.registry import Registry
from benchmark.resolve import _Resolver

IMAGES = 10_000
"""How many test images every data set has in such a plan."""


class _WithoutFiles(_Resolver):
    """Takes every data set for one of 10,000 test images, and every given target for one with its weights."""

    def _dataset(self, choice: Choice) -> tuple[DatasetRef, str | None, Sequence[str]]:
        source = getattr(choice.config, "source", None) or getattr(choice.plugin, "source", None)
        ref = DatasetRef(**self._basics(choice), images="0" * 64, test_size=IMAGES)
        return ref, source, tuple(getattr(choice.plugin, "substitutes", ()))

    def _target(self, choice: Choice) -> TargetRef:
        return TargetRef(**self._basics(choice), trainable=getattr(choice.plugin, "trainable", True))


def plan_without_files(name: str, registry: Registry) -> Plan:
    """The plan of a built-in grid, the same on every machine."""
    grid = load_grid(name, registry)
    resolver = _WithoutFiles(grid.folder, registry, Path(), (), None)
    return make_plan(resolver.products(grid.blocks, ()))
