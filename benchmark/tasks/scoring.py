"""Purifying, and judging what the attacks made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmark.refs import AttackRef, PluginRef
from benchmark.tasks.base import Shard, Task
from benchmark.tasks.crafting import Craft, Handed
from benchmark.tasks.training import Purifier, TrainTarget


@dataclass(frozen=True, eq=False)
class Purify(Task):
    """Run a purifier over a shard: over its clean images, or over those of a craft.

    `draw` tells draws of a random purifier apart: the one to select by, and those to judge by.
    """

    purifier: Purifier
    shard: Shard
    images: Craft | Handed | None
    draw: str = "select"

    kind = "purify"

    @property
    def label(self) -> str:
        return self.purifier.name

    def content(self) -> dict[str, Any]:
        images = self.images.key if self.images else "clean"
        return {
            "purifier": self.purifier.key,
            "shard": self.shard.content,
            "images": images,
            "draw": self.draw,
        }

    def needs(self) -> tuple[Task, ...]:
        return (*self.purifier.needs(), *((self.images,) if self.images else ()))

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.shard.dataset.name, self.purifier.stream)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return self.purifier.runs

    @property
    def noise_seed(self) -> int:
        """The seed of the purifier's noise: of one draw the same for all images, whoever made them."""
        return self.purifier.seed_for("purify", self.shard.dataset, self.draw)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way in which a threat may change the images; `craft` is None for leaving them clean."""

    route: str
    craft: Craft | Handed | None
    purify: Purify


@dataclass(frozen=True, eq=False)
class Score(Task):
    """Judge the candidates of one cell on one shard: each image's worst one, on the real pipeline.

    `baseline` are the attacks on the bare target, for the undefended error under the same threat. The
    clean images are judged as the others are, in `clean_judged`. `threat` is its name and version.
    """

    target: TrainTarget
    purifier: Purifier
    attack: AttackRef
    shard: Shard
    judge: str
    candidates: tuple[Candidate, ...]
    baseline: tuple[Craft, ...]
    clean: Purify
    clean_judged: tuple[Purify, ...]
    threat: tuple[str, int]

    kind = "score"

    @property
    def label(self) -> str:
        return self.purifier.name

    def content(self) -> dict[str, Any]:
        return {
            "target": self.target.key,
            "purifier": self.purifier.key,
            "ball": [self.attack.norm, self.attack.eps],
            "shard": self.shard.content,
            "judge": self.judge,
            "candidates": [[candidate.route, candidate.purify.key] for candidate in self.candidates],
            "baseline": [craft.key for craft in self.baseline],
            "clean": self.clean.key,
            "clean_judged": [purify.key for purify in self.clean_judged],
            "threat": list(self.threat),
        }

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.shard.dataset.name, self.purifier.stream)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (self.target.target, *self.purifier.runs)

    def needs(self) -> tuple[Task, ...]:
        crafts = [candidate.craft for candidate in self.candidates if candidate.craft is not None]
        purifies = [candidate.purify for candidate in self.candidates]
        clean = (self.clean, *self.clean_judged)
        return (self.target, *self.purifier.needs(), *self.baseline, *crafts, *clean, *purifies)
