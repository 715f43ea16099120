"""The surfaces that attacks are run on, and the tasks that run and train attacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmark.plan.specs import AttackSpec, DatasetSpec, PluginSpec
from benchmark.plan.tasks import surface_forms
from benchmark.plan.tasks.base import Shard, Task
from benchmark.plan.tasks.training import PurifierSpec, TrainTarget
from benchmark.storage.keys import digest


@dataclass(frozen=True, eq=False)
class SurfaceSpec:
    """The model that an attacker optimises against. `form` is one of `surface_forms`.

    `draws`: how many draws of a random purifier are averaged at each step; None if nothing is random.
    `purified_set`: the purified training images, for the surface that measures distances to them.
    `bpda_network`: the network that replaces the purifier in the backward pass.
    """

    form: str
    target: TrainTarget
    purifier: PurifierSpec | None = None
    draws: int | None = None
    purified_set: PurifiedSet | None = None
    bpda_network: TrainBpdaNetwork | None = None

    @cached_property
    def key(self) -> str:
        purifier = self.purifier.key if self.purifier else None
        content = {"form": self.form, "target": self.target.key, "purifier": purifier, "draws": self.draws}
        return digest(content | {task.kind: task.key for task in self._helpers})

    @property
    def label(self) -> str:
        return self.purifier.name if self.purifier else self.target.label

    @property
    def stream(self) -> tuple[Any, ...]:
        """Identifies the random numbers of an attack on it: its form, and the roles of its models."""
        return (self.form, self.target.role, self.purifier.parts[0].role if self.purifier else None)

    @property
    def runs(self) -> tuple[PluginSpec, ...]:
        """The plugins that it consists of."""
        return (self.target.target, *(self.purifier.runs if self.purifier else ()))

    @property
    def is_pipeline(self) -> bool:
        """Whether its forward pass is the pipeline, so that an error on it is an error for the judge too."""
        return self.form.startswith(surface_forms.PIPELINE)

    def needs(self) -> tuple[Task, ...]:
        return (self.target, *(self.purifier.needs() if self.purifier else ()), *self._helpers)

    @property
    def _helpers(self) -> tuple[Task, ...]:
        return tuple(task for task in (self.purified_set, self.bpda_network) if task is not None)


@dataclass(frozen=True, eq=False)
class _TrainingImagesTask(Task):
    """Base of the tasks that purify the first `count` training images of a fixed class-balanced order."""

    dataset: DatasetSpec
    purifier: PurifierSpec
    count: int

    @property
    def label(self) -> str:
        return self.purifier.name

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.dataset.name, self.purifier.stream)


@dataclass(frozen=True, eq=False)
class PurifiedSet(_TrainingImagesTask):
    """Purify the training images."""

    kind = "purified-set"


@dataclass(frozen=True, eq=False)
class TrainBpdaNetwork(_TrainingImagesTask):
    """Train a small network to imitate a purifier on noisy training images."""

    kind = "train-bpda-network"


@dataclass(frozen=True, eq=False)
class TrainAttack(Task):
    """Train an attack against a surface, on training images. The `infer` fields are not part of its key."""

    dataset: DatasetSpec
    attack: AttackSpec
    surface: SurfaceSpec
    seed: int | None

    kind = "train-attack"

    def content(self) -> dict[str, Any]:
        return super().content() | {"attack": self.attack.limited_to(self.attack.train_fields)}

    @property
    def stream(self) -> tuple[Any, ...]:
        return (*self.surface.stream, self.dataset.name, self.attack.name, self.seed)


@dataclass(frozen=True, eq=False)
class TrainSubstitute(TrainTarget):
    """Train a substitute classifier on the labels that the deployed pipeline, the `oracle`, outputs.

    `how` is one of:
    - "jacobian": start with 150 images and query ever more (Papernot et al. 2017);
    - "distilled": query each of the attacker's images once (Xiao et al. 2018);
    - "dynamic": continue from `start` with images of a `generator` that was trained against it (same paper).
    """

    oracle: SurfaceSpec
    how: str
    start: TrainSubstitute | None = None
    generator: TrainAttack | None = None

    kind = "train-substitute"

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.how, *super().stream)

    @property
    def runs(self) -> tuple[PluginSpec, ...]:
        return (*super().runs, *(self.generator.runs if self.generator else ()))


@dataclass(frozen=True, eq=False)
class GradientProbe(Task):
    """Measure the gradient of a surface at clean images."""

    surface: SurfaceSpec
    shard: Shard

    kind = "gradient-probe"
    version = 2

    @property
    def label(self) -> str:
        return self.surface.label

    @property
    def stream(self) -> tuple[Any, ...]:
        return (*self.surface.stream, self.shard.dataset.name)


@dataclass(frozen=True, eq=False)
class ExternalImages(Task):
    """Images made outside this harness: `images` is their hash, `origin` says where they come from.

    `bench judge` stores them as the result of this task. The harness cannot compute it.
    """

    shard: Shard
    images: str
    origin: str

    kind = "external-images"
    label = "outside"
    stream = ()


@dataclass(frozen=True, eq=False)
class ConvergenceSearch(Task):
    """Find how many steps, restarts and draws an attack needs until more of them break no further image.

    It runs on a few images, the `shard`, with each loss that the attack supports. It doubles steps, restarts
    and draws together until the error changes by at most one point or one image. It does so for each surface
    separately, until almost every image is broken on at least one surface.
    """

    attack: AttackSpec
    surfaces: tuple[SurfaceSpec, ...]
    shard: Shard
    seed: int | None

    kind = "convergence-search"

    @property
    def stream(self) -> tuple[Any, ...]:
        surfaces = [surface.stream for surface in self.surfaces]
        return (surfaces, self.shard.dataset.name, self.attack.name, self.seed)


@dataclass(frozen=True, eq=False)
class Craft(Task):
    """Run an attack on a surface, from the clean images or from the images of the `start` task.

    With a `convergence` task, the attack runs with the steps, restarts and draws that it found.
    """

    attack: AttackSpec
    surface: SurfaceSpec
    shard: Shard
    seed: int | None
    start: Craft | None = None
    convergence: ConvergenceSearch | None = None

    kind = "craft"

    @cached_property
    def training(self) -> TrainAttack | None:
        """The training of a trainable attack, against the same surface that the attack is run on."""
        if not self.attack.trainable:
            return None
        return TrainAttack(self.shard.dataset, self.attack, self.surface, self.seed)

    @property
    def _others(self) -> dict[str, Task]:
        """The tasks that it reads, besides those of its surface, by their name in the key."""
        others = {"training": self.training, "start": self.start, "convergence_search": self.convergence}
        return {name: task for name, task in others.items() if task is not None}

    def content(self) -> dict[str, Any]:
        return {
            "attack": self.attack.content,
            "surface": self.surface.key,
            "seed": self.seed,
            "shard": self.shard.content,
            **{name: task.key for name, task in self._others.items()},
        }

    def needs(self) -> tuple[Task, ...]:
        return (*self.surface.needs(), *self._others.values())

    @property
    def stream(self) -> tuple[Any, ...]:
        """The same for every shard: noise is indexed by image."""
        started = self.start is not None
        return (*self.surface.stream, started, self.shard.dataset.name, self.attack.name, self.seed)

    @cached_property
    def sweep(self) -> str | None:
        """Equal for craft tasks that one call of the attack can run together; None if it must run alone."""
        if self.start is not None or self.convergence is not None or not self.attack.shares_sweep:
            return None
        kept = self.attack.config.keys() - self.attack.sweep_fields
        return digest([self.attack.limited_to(kept), self.surface.key, self.seed, self.shard.content])
