"""What attacks are run on, and the tasks of running them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmark.keys import digest
from benchmark.refs import AttackRef, DatasetRef, PluginRef
from benchmark.tasks.base import Shard, Task
from benchmark.tasks.training import Purifier, TrainTarget


@dataclass(frozen=True, eq=False)
class SurfaceSpec:
    """What an attacker optimises against; `form` names how it is built from target and purifier.

    `draws` of a random purifier are averaged at each step; None where nothing is random. `bank` has the
    purified training images where the surface is made of them, `mimic` the net that is followed backwards.
    """

    form: str
    target: TrainTarget
    purifier: Purifier | None = None
    draws: int | None = None
    bank: Bank | None = None
    mimic: Mimic | None = None

    @cached_property
    def key(self) -> str:
        purifier = self.purifier.key if self.purifier else None
        made = {task.kind: task.key for task in self._made}
        return digest(
            {"form": self.form, "target": self.target.key, "purifier": purifier, "draws": self.draws} | made
        )

    @property
    def stream(self) -> tuple[Any, ...]:
        """What names the random numbers of an attack on it: its form and whose models it is made of."""
        return (self.form, self.target.role, self.purifier.parts[0].role if self.purifier else None)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        """The plugins that it is made of."""
        return (self.target.target, *(self.purifier.runs if self.purifier else ()))

    @property
    def own(self) -> bool:
        """Whether it is the pipeline itself, so that what is wrong on it has to be wrong for the judge."""
        return self.form.startswith("pipeline")

    def needs(self) -> tuple[Task, ...]:
        return (self.target, *(self.purifier.needs() if self.purifier else ()), *self._made)

    @property
    def _made(self) -> tuple[Task, ...]:
        return tuple(task for task in (self.bank, self.mimic) if task is not None)


@dataclass(frozen=True, eq=False)
class _OfTrainingImages(Task):
    """What is made of the first `count` training images of a fixed class-balanced order."""

    dataset: DatasetRef
    purifier: Purifier
    count: int

    @property
    def label(self) -> str:
        return self.purifier.name

    def content(self) -> dict[str, Any]:
        return {"dataset": self.dataset.content, "purifier": self.purifier.key, "count": self.count}

    def needs(self) -> tuple[Task, ...]:
        return self.purifier.needs()

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.dataset.name, self.purifier.stream)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return self.purifier.runs


@dataclass(frozen=True, eq=False)
class Bank(_OfTrainingImages):
    """Purify the training images."""

    kind = "purified-set"


@dataclass(frozen=True, eq=False)
class Mimic(_OfTrainingImages):
    """Teach a small net what a purifier makes of the training images with noise on them."""

    kind = "train-bpda-network"


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
        return {
            "dataset": self.dataset.content,
            "attack": self.attack.limited_to(self.attack.train_fields),
            "surface": self.surface.key,
            "seed": self.seed,
        }

    def needs(self) -> tuple[Task, ...]:
        return self.surface.needs()

    @property
    def stream(self) -> tuple[Any, ...]:
        return (*self.surface.stream, self.dataset.name, self.attack.name, self.seed)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (self.attack, *self.surface.runs)


@dataclass(frozen=True, eq=False)
class TrainSubstitute(TrainTarget):
    """Train a classifier on the labels that the pipeline gives away when it is asked.

    `how`: `jacobian` begins with 150 images and asks for ever more (Papernot et al. 2017); `distilled` asks
    once for each of the attacker's images; `dynamic` goes on from `start` with the images that a `generator`
    trained against it makes (Xiao et al. 2018). `oracle` is what is asked.
    """

    oracle: SurfaceSpec
    how: str
    start: TrainSubstitute | None = None
    generator: TrainAttack | None = None

    kind = "train-substitute"

    def content(self) -> dict[str, Any]:
        return super().content() | {
            "oracle": self.oracle.key,
            "how": self.how,
            "start": self.start.key if self.start else None,
            "generator": self.generator.key if self.generator else None,
        }

    def needs(self) -> tuple[Task, ...]:
        others = (self.start, self.generator)
        return (*self.oracle.needs(), *(task for task in others if task is not None))

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.how, *super().stream)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (*super().runs, *self.oracle.runs, *(self.generator.runs if self.generator else ()))


@dataclass(frozen=True, eq=False)
class Probe(Task):
    """Measure the gradient of a surface at clean images."""

    surface: SurfaceSpec
    shard: Shard

    kind = "gradient-probe"
    version = 2

    @property
    def label(self) -> str:
        return self.surface.purifier.name if self.surface.purifier else self.surface.target.label

    def content(self) -> dict[str, Any]:
        return {"surface": self.surface.key, "shard": self.shard.content}

    def needs(self) -> tuple[Task, ...]:
        return self.surface.needs()

    @property
    def stream(self) -> tuple[Any, ...]:
        return (*self.surface.stream, self.shard.dataset.name)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return self.surface.runs


@dataclass(frozen=True, eq=False)
class Handed(Task):
    """Images that somebody made elsewhere: `images` is their hash, `origin` says where."""

    shard: Shard
    images: str
    origin: str

    kind = "external-images"

    @property
    def label(self) -> str:
        return "outside"

    def content(self) -> dict[str, Any]:
        return {"shard": self.shard.content, "images": self.images, "origin": self.origin}

    def needs(self) -> tuple[Task, ...]:
        return ()

    @property
    def stream(self) -> tuple[Any, ...]:
        return ()

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class Effort(Task):
    """Find how much of an attack it takes on some surfaces of a pipeline until more breaks no further image.

    On a few images of the `shard`, with each loss that the attack can follow: steps, restarts and draws are
    doubled together until that moves the error by no more than a point or an image; on each surface for
    itself, until hardly an image is left that none of them has led to.
    """

    attack: AttackRef
    surfaces: tuple[SurfaceSpec, ...]
    shard: Shard
    seed: int | None

    kind = "convergence-search"

    @property
    def label(self) -> str:
        return self.attack.name

    def content(self) -> dict[str, Any]:
        return {
            "attack": self.attack.content,
            "surfaces": [surface.key for surface in self.surfaces],
            "shard": self.shard.content,
            "seed": self.seed,
        }

    def needs(self) -> tuple[Task, ...]:
        return tuple(task for surface in self.surfaces for task in surface.needs())

    @property
    def stream(self) -> tuple[Any, ...]:
        surfaces = [surface.stream for surface in self.surfaces]
        return (surfaces, self.shard.dataset.name, self.attack.name, self.seed)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (self.attack, *(ref for surface in self.surfaces for ref in surface.runs))


@dataclass(frozen=True, eq=False)
class Craft(Task):
    """Run an attack on a surface, from the clean images or from those of another `start` task.

    With an `effort`, as hard as that found to be worth it.
    """

    attack: AttackRef
    surface: SurfaceSpec
    shard: Shard
    seed: int | None
    start: Craft | None = None
    effort: Effort | None = None

    kind = "craft"

    @cached_property
    def training(self) -> TrainAttack | None:
        """The training of the attack, where it has one, against the very surface that it is run on."""
        if not self.attack.trainable:
            return None
        return TrainAttack(self.shard.dataset, self.attack, self.surface, self.seed)

    @property
    def label(self) -> str:
        return self.attack.name

    def content(self) -> dict[str, Any]:
        others = {"training": self.training, "start": self.start, "convergence_search": self.effort}
        return {
            "attack": self.attack.content,
            "surface": self.surface.key,
            "seed": self.seed,
            "shard": self.shard.content,
            **{name: task.key for name, task in others.items() if task is not None},
        }

    def needs(self) -> tuple[Task, ...]:
        others = (self.training, self.start, self.effort)
        return (*self.surface.needs(), *(task for task in others if task is not None))

    @property
    def stream(self) -> tuple[Any, ...]:
        """The same for every shard: noise is indexed by image."""
        started = self.start is not None
        return (*self.surface.stream, started, self.shard.dataset.name, self.attack.name, self.seed)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (self.attack, *self.surface.runs)

    @cached_property
    def sweep(self) -> str | None:
        """Equal for crafts that one call of the attack can serve; None where none can be shared."""
        if self.start is not None or self.effort is not None or not self.attack.shares_sweep:
            return None
        kept = self.attack.config.keys() - self.attack.sweep_fields
        return digest([self.attack.limited_to(kept), self.surface.key, self.seed, self.shard.content])
