"""The units of work as data: what each depends on, and the key that follows from it.

A task holds no tensor and does nothing. Its key is the hash of all that its result depends on; what
does not change the result (device, crafting batch, executor, paths, time) is not in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from benchmark.keys import digest, seed_from
from benchmark.refs import AttackRef, DatasetRef, DefenseRef, PluginRef

SHARD_SIZE = 100
"""Images in a shard: the unit of caching, of resuming, and the batch in which images are judged."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """The harness's own part in a result: fingerprints of the code that does each kind of task."""

    code: Mapping[str, str]
    shard_size: int = SHARD_SIZE

    def of(self, kind: str) -> dict[str, Any]:
        return {"code": self.code[kind], "shard_size": self.shard_size}


@dataclass(frozen=True, eq=False)
class Shard:
    """Test images `start` to `stop` of the fixed order."""

    dataset: DatasetRef
    start: int
    stop: int

    @property
    def indices(self) -> range:
        return range(self.start, self.stop)

    @property
    def content(self) -> dict[str, Any]:
        return {"dataset": self.dataset.content, "start": self.start, "stop": self.stop}


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A unit of work. `kind` names it, `label` is the plugin that the work is about."""

    protocol: Protocol = field(repr=False)

    @property
    @abstractmethod
    def kind(self) -> str: ...

    @property
    @abstractmethod
    def label(self) -> str: ...

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """All that the result depends on, as JSON."""

    @abstractmethod
    def needs(self) -> tuple[Task, ...]:
        """The tasks whose results this one reads."""

    @cached_property
    def key(self) -> str:
        return digest({"kind": self.kind, "protocol": self.protocol.of(self.kind)} | self.content())


@dataclass(frozen=True, eq=False)
class TrainTarget(Task):
    """Train a classifier: as a target, or apart from all targets as the source of a defense."""

    dataset: DatasetRef
    target: PluginRef
    role: str
    seed: int

    kind = "train-target"

    @property
    def label(self) -> str:
        return self.target.name

    def content(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset.content,
            "target": self.target.content,
            "role": self.role,
            "seed": self.seed,
        }

    def needs(self) -> tuple[Task, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class TrainDefense(Task):
    """Train a purifier with a source classifier. Its key leaves the `infer` fields out."""

    dataset: DatasetRef
    defense: DefenseRef
    source: TrainTarget
    seed: int

    kind = "train-defense"

    @property
    def label(self) -> str:
        return self.defense.name

    def content(self) -> dict[str, Any]:
        config = {name: self.defense.config[name] for name in sorted(self.defense.train_fields)}
        return {
            "dataset": self.dataset.content,
            "defense": self.defense.content | {"config": config},
            "source": self.source.key,
            "seed": self.seed,
        }

    def needs(self) -> tuple[Task, ...]:
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Part:
    """A defense ready for use: its configuration, its weights if it is trained, its seed if it is random."""

    defense: DefenseRef
    training: TrainDefense | None = None
    seed: int | None = None

    @property
    def content(self) -> dict[str, Any]:
        training = self.training.key if self.training else None
        return {"defense": self.defense.content, "training": training, "seed": self.seed}

    @property
    def config(self) -> dict[str, Any]:
        """The parameters, the source where it is not the default, and whether the preset was changed."""
        own = dict(self.defense.config)
        if self.defense.preset_changed:
            own["preset_changed"] = True
        if self.training is not None and self.training.source.role == "target":
            own["source"] = "target"
        return own


@dataclass(frozen=True, eq=False)
class Purifier:
    """One defense, or several in sequence; its facts follow from theirs."""

    parts: tuple[Part, ...]

    @cached_property
    def key(self) -> str:
        return digest([part.content for part in self.parts])

    @property
    def name(self) -> str:
        return "+".join(part.defense.name for part in self.parts)

    @property
    def config(self) -> dict[str, Any]:
        if len(self.parts) == 1:
            return self.parts[0].config
        return {"chain": [{"name": part.defense.name} | part.config for part in self.parts]}

    @property
    def trainable(self) -> bool:
        return any(part.defense.trainable for part in self.parts)

    @property
    def stochastic(self) -> bool:
        return any(part.defense.stochastic for part in self.parts)

    @property
    def control(self) -> bool:
        return all(part.defense.control for part in self.parts)

    @property
    def decides_label(self) -> bool:
        """Whether the last part does: what comes before it only changes what it gets to see."""
        return self.parts[-1].defense.decides_label

    @property
    def gate(self) -> float:
        """The widest of the trained parts': what is not trained has none to lend."""
        return max((part.defense.gate for part in self.parts if part.defense.trainable), default=0.0)

    @property
    def seed(self) -> int | None:
        """The defense seed of the row; None where nothing depends on it."""
        seeds = [part.training.seed if part.training else part.seed for part in self.parts]
        return next((seed for seed in seeds if seed is not None), None)

    @cached_property
    def in_attack(self) -> Purifier:
        """What attacks run: the same purifier, or its cheaper setting."""
        return Purifier(
            tuple(
                part
                if part.defense.in_attack is None
                else replace(part, defense=replace(part.defense, config=part.defense.in_attack))
                for part in self.parts
            )
        )

    @property
    def is_cheaper_in_attack(self) -> bool:
        return any(part.defense.in_attack is not None for part in self.parts)

    def needs(self) -> tuple[Task, ...]:
        return tuple(part.training for part in self.parts if part.training is not None)


@dataclass(frozen=True, eq=False)
class SurfaceSpec:
    """What an attacker optimises against; `form` names how it is built from target and purifier.

    `draws` of a random purifier are averaged at each step; None where nothing is random.
    """

    form: str
    target: TrainTarget
    purifier: Purifier | None = None
    draws: int | None = None

    @cached_property
    def key(self) -> str:
        purifier = self.purifier.key if self.purifier else None
        return digest(
            {"form": self.form, "target": self.target.key, "purifier": purifier, "draws": self.draws}
        )

    def needs(self) -> tuple[Task, ...]:
        return (self.target, *(self.purifier.needs() if self.purifier else ()))


@dataclass(frozen=True, eq=False)
class TrainAttack(Task):
    """Train an attack against a surface, on the training images. Its key leaves the `infer` fields out."""

    dataset: DatasetRef
    attack: AttackRef
    surface: SurfaceSpec
    seed: int | None

    kind = "train-attack"

    @property
    def label(self) -> str:
        return self.attack.name

    def content(self) -> dict[str, Any]:
        config = {name: self.attack.config[name] for name in sorted(self.attack.train_fields)}
        return {
            "dataset": self.dataset.content,
            "attack": self.attack.content | {"config": config},
            "surface": self.surface.key,
            "seed": self.seed,
        }

    def needs(self) -> tuple[Task, ...]:
        return self.surface.needs()


@dataclass(frozen=True, eq=False)
class Probe(Task):
    """Measure the gradient of a surface at clean images."""

    surface: SurfaceSpec
    shard: Shard

    kind = "probe"

    @property
    def label(self) -> str:
        return self.surface.purifier.name if self.surface.purifier else self.surface.target.label

    def content(self) -> dict[str, Any]:
        return {"surface": self.surface.key, "shard": self.shard.content}

    def needs(self) -> tuple[Task, ...]:
        return self.surface.needs()


@dataclass(frozen=True, eq=False)
class Craft(Task):
    """Run an attack on a surface, from the clean images or from those of another `start` task."""

    attack: AttackRef
    surface: SurfaceSpec
    shard: Shard
    seed: int | None
    start: Craft | None = None

    kind = "craft"

    @cached_property
    def training(self) -> TrainAttack | None:
        """The training of the attack, where it has one, against the very surface that it is run on."""
        if not self.attack.trainable:
            return None
        return TrainAttack(self.protocol, self.shard.dataset, self.attack, self.surface, self.seed)

    @property
    def label(self) -> str:
        return self.attack.name

    @cached_property
    def _without_shard(self) -> dict[str, Any]:
        training = {} if self.training is None else {"training": self.training.key}
        return {
            "attack": self.attack.content,
            "surface": self.surface.key,
            "seed": self.seed,
            **training,
        }

    def content(self) -> dict[str, Any]:
        start = self.start.key if self.start else None
        return self._without_shard | {"shard": self.shard.content, "start": start}

    def needs(self) -> tuple[Task, ...]:
        others = (self.training, self.start)
        return (*self.surface.needs(), *(task for task in others if task is not None))

    @property
    def noise_seed(self) -> int:
        """The same for every shard: noise is indexed by image."""
        return seed_from("craft", self._without_shard, self.start is not None)

    @cached_property
    def sweep(self) -> str | None:
        """Equal for crafts that one call of the attack can serve; None where none can be shared."""
        if self.start is not None or not self.attack.shares_sweep:
            return None
        kept = {k: v for k, v in self.attack.config.items() if k not in self.attack.sweep_fields}
        attack = self.attack.content | {"config": kept}
        return digest([attack, self.surface.key, self.seed, self.shard.content])


@dataclass(frozen=True, eq=False)
class Purify(Task):
    """Run a purifier over a shard: over its clean images, or over those of a craft.

    `draw` tells two draws of a random purifier apart: the one to select by, and the one to judge by.
    """

    purifier: Purifier
    shard: Shard
    images: Craft | None
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


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way in which a threat may change the images; `craft` is None for leaving them clean."""

    route: str
    craft: Craft | None
    purify: Purify


@dataclass(frozen=True, eq=False)
class Score(Task):
    """Judge the candidates of one cell on one shard: each image's worst one, on the real pipeline.

    `baseline` is the attack on the bare target, for the undefended error of the same attack.
    """

    target: TrainTarget
    purifier: Purifier
    attack: AttackRef
    shard: Shard
    judge: str
    candidates: tuple[Candidate, ...]
    baseline: Craft
    clean: Purify
    clean_judged: Purify

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
            "baseline": self.baseline.key,
            "clean": self.clean.key,
            "clean_judged": self.clean_judged.key,
        }

    def needs(self) -> tuple[Task, ...]:
        crafts = [candidate.craft for candidate in self.candidates if candidate.craft is not None]
        purifies = [candidate.purify for candidate in self.candidates]
        clean = (self.clean, self.clean_judged)
        return (self.target, *self.purifier.needs(), self.baseline, *crafts, *clean, *purifies)
