"""Tasks that look for what attacks would not tell: the grounds of doubts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmark.refs import PluginRef
from benchmark.tasks.base import Shard, Task
from benchmark.tasks.crafting import SurfaceSpec
from benchmark.tasks.scoring import Purify, Score
from benchmark.tasks.training import Purifier, TrainTarget


@dataclass(frozen=True, eq=False)
class Examine(Task):
    """Ask a pipeline about clean images in several ways: its answers should be the same.

    `clean` are the images of the shard, purified.
    """

    target: TrainTarget
    purifier: Purifier
    shard: Shard
    clean: Purify

    kind = "consistency-check"

    @property
    def label(self) -> str:
        return self.purifier.name

    def content(self) -> dict[str, Any]:
        return {"target": self.target.key, "purifier": self.purifier.key, "clean": self.clean.key}

    def needs(self) -> tuple[Task, ...]:
        return (self.target, *self.purifier.needs(), self.clean)

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.shard.dataset.name, self.purifier.stream)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (self.target.target, *self.purifier.runs)


@dataclass(frozen=True, eq=False)
class Slope(Task):
    """Compare the gradients that an attacker follows with the slope of the pipeline, the first surface."""

    surfaces: tuple[SurfaceSpec, ...]
    shard: Shard

    kind = "finite-difference-check"

    @property
    def label(self) -> str:
        purifier = self.surfaces[0].purifier
        return purifier.name if purifier else self.surfaces[0].target.label

    def content(self) -> dict[str, Any]:
        return {"surfaces": [surface.key for surface in self.surfaces], "shard": self.shard.content}

    def needs(self) -> tuple[Task, ...]:
        return tuple(task for surface in self.surfaces for task in surface.needs())

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.surfaces[0].stream, self.shard.dataset.name)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return tuple(ref for surface in self.surfaces for ref in surface.runs)


@dataclass(frozen=True, eq=False)
class NoiseSearch(Task):
    """Look for errors of a pipeline among `samples` random points of the ball of a scored cell."""

    score: Score
    samples: int

    kind = "random-search"

    @property
    def label(self) -> str:
        return self.score.purifier.name

    def content(self) -> dict[str, Any]:
        attack = self.score.attack
        return {
            "target": self.score.target.key,
            "purifier": self.score.purifier.key,
            "shard": self.score.shard.content,
            "ball": [attack.norm, attack.eps],
            "samples": self.samples,
        }

    def needs(self) -> tuple[Task, ...]:
        return (self.score.target, *self.score.purifier.needs())

    @property
    def stream(self) -> tuple[Any, ...]:
        return self.score.stream

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return self.score.runs
