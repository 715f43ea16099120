"""Tasks that purify images, score the pipeline on them, and check it for masked gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmark.plan.specs import AttackSpec, PluginSpec
from benchmark.plan.tasks.base import Shard, Task
from benchmark.plan.tasks.crafting import Craft, ExternalImages, SurfaceSpec
from benchmark.plan.tasks.training import PurifierSpec, TrainTarget


@dataclass(frozen=True, eq=False)
class _PurifierTask(Task):
    """Base of the tasks that run a purifier on a shard."""

    purifier: PurifierSpec
    shard: Shard

    @property
    def label(self) -> str:
        return self.purifier.name

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.shard.dataset.name, self.purifier.stream)


@dataclass(frozen=True, eq=False)
class Purify(_PurifierTask):
    """Run a purifier on a shard: on its clean images, or on those of a craft task.

    `draw` distinguishes the draws of a random purifier: "select" is the one that worst candidates are
    selected by, the others are those that images are judged by.
    """

    images: Craft | ExternalImages | None
    draw: str = "select"

    kind = "purify"

    def content(self) -> dict[str, Any]:
        return super().content() | {"images": self.images.key if self.images else "clean"}

    @property
    def noise_seed(self) -> int:
        """The seed of the purifier's noise. Within one draw it is the same for all sets of images."""
        return self.purifier.seed_for("purify", self.shard.dataset, self.draw)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way in which a threat may change the images; `craft` is None for the clean images."""

    route: str
    craft: Craft | ExternalImages | None
    purify: Purify


@dataclass(frozen=True, eq=False)
class _PipelineTask(_PurifierTask):
    """Base of the tasks that run a target behind a purifier."""

    target: TrainTarget

    def needs(self) -> tuple[Task, ...]:
        return (self.target, *self.purifier.needs())

    @property
    def runs(self) -> tuple[PluginSpec, ...]:
        return (self.target.target, *self.purifier.runs)


@dataclass(frozen=True, eq=False)
class Score(_PipelineTask):
    """Score one cell on one shard: judge the worst candidate of each image on the deployed pipeline.

    `baseline` holds the attacks on the bare target, for the undefended error under the same threat.
    `clean_judged` holds the draws on which clean images are judged, in the same way as adversarial ones.
    `threat` is the name and the version of the threat.
    """

    attack: AttackSpec
    judge: str
    candidates: tuple[Candidate, ...]
    baseline: tuple[Craft, ...]
    clean: Purify
    clean_judged: tuple[Purify, ...]
    threat: tuple[str, int]

    kind = "score"

    def content(self) -> dict[str, Any]:
        content = super().content()
        del content["attack"]  # a score depends only on its ball
        candidates = [[candidate.route, candidate.purify.key] for candidate in self.candidates]
        return content | {"ball": [self.attack.norm, self.attack.eps], "candidates": candidates}

    def needs(self) -> tuple[Task, ...]:
        crafts = [candidate.craft for candidate in self.candidates if candidate.craft is not None]
        purifies = [candidate.purify for candidate in self.candidates]
        return (*super().needs(), *self.baseline, *crafts, self.clean, *self.clean_judged, *purifies)


@dataclass(frozen=True, eq=False)
class ConsistencyCheck(_PipelineTask):
    """Run a pipeline on clean images in several ways that should all give the same outputs."""

    clean: Purify

    kind = "consistency-check"

    def content(self) -> dict[str, Any]:
        return {"target": self.target.key, "purifier": self.purifier.key, "clean": self.clean.key}

    def needs(self) -> tuple[Task, ...]:
        return (*super().needs(), self.clean)


@dataclass(frozen=True, eq=False)
class RandomSearch(Task):
    """Look for errors of the pipeline at `samples` random points in the ball of a scored cell."""

    score: Score
    samples: int

    kind = "random-search"

    @property
    def label(self) -> str:
        return self.score.label

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
    def runs(self) -> tuple[PluginSpec, ...]:
        return self.score.runs


@dataclass(frozen=True, eq=False)
class FiniteDifferenceCheck(Task):
    """Compare the gradients of several surfaces with finite differences of the first one, the pipeline."""

    surfaces: tuple[SurfaceSpec, ...]
    shard: Shard

    kind = "finite-difference-check"

    @property
    def label(self) -> str:
        return self.surfaces[0].label

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.surfaces[0].stream, self.shard.dataset.name)
