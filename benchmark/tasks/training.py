"""Trainings of classifiers and defenses, and the purifiers that come of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from benchmark.keys import canonical, digest, seed_from
from benchmark.refs import DatasetRef, DefenseRef, PluginRef, TargetRef
from benchmark.tasks.base import Task


@dataclass(frozen=True, eq=False)
class TrainTarget(Task):
    """Train a classifier, or load a given one: as a target, or apart from all as the source of a defense."""

    dataset: DatasetRef
    target: TargetRef
    role: str
    seed: int | None

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

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.role, self.dataset.name, self.target.name, self.seed)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (self.target,)


@dataclass(frozen=True, eq=False)
class TrainDefense(Task):
    """Train a purifier with a source classifier. Its key leaves the `infer` fields out.

    `role` tells the defense from the copies of it that an attacker trains.
    """

    dataset: DatasetRef
    defense: DefenseRef
    source: TrainTarget
    seed: int
    role: str = "defense"

    kind = "train-defense"

    @property
    def label(self) -> str:
        return self.defense.name

    def content(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset.content,
            "defense": self.defense.limited_to(self.defense.train_fields),
            "source": self.source.key,
            "seed": self.seed,
            "role": self.role,
        }

    def needs(self) -> tuple[Task, ...]:
        return (self.source,)

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.role, self.dataset.name, self.defense.name, self.seed)

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        return (self.defense, self.source.target)


@dataclass(frozen=True, eq=False)
class Part:
    """A defense ready for use: its configuration, its weights if it is trained, its seed if it is random.

    `taught_by_other` tells that it was trained with another target than the one that it stands before;
    `role` tells it from the copies of it that an attacker makes.
    """

    defense: DefenseRef
    training: TrainDefense | None = None
    seed: int | None = None
    taught_by_other: bool = False
    role: str = "defense"

    @property
    def content(self) -> dict[str, Any]:
        training = self.training.key if self.training else None
        seeded = {} if self.seed is None else {"seed": self.seed, "role": self.role}
        return {"defense": self.defense.content, "training": training} | seeded

    @property
    def stream(self) -> tuple[Any, ...]:
        """What names its random numbers."""
        trained = None if self.training is None else self.training.seed
        return (self.role, self.defense.name, trained if self.seed is None else self.seed)

    @property
    def config(self) -> dict[str, Any]:
        """The parameters, the source where it is not the default, and whether the preset was changed."""
        own = self.defense.shown
        if self.defense.preset_changed:
            own["preset_changed"] = True
        if self.training is not None and self.training.source.role == "target":
            source = self.training.source.target
            own["source"] = {"name": source.name, **source.config} if self.taught_by_other else "target"
        return own


@dataclass(frozen=True, eq=False)
class Purifier:
    """One defense, or several in sequence; its facts follow from theirs."""

    parts: tuple[Part, ...]

    @cached_property
    def key(self) -> str:
        return digest([part.content for part in self.parts])

    @property
    def stream(self) -> list[tuple[Any, ...]]:
        """What names the random numbers of its parts, in their order."""
        return [part.stream for part in self.parts]

    @property
    def runs(self) -> tuple[PluginRef, ...]:
        """The plugins that it is made of."""
        return tuple(part.defense for part in self.parts)

    def seed_for(self, purpose: str, dataset: DatasetRef, *more: Any) -> int:
        """A seed for noise of this purifier, the same for every shard: noise is indexed by image."""
        return seed_from(purpose, dataset.name, self.stream, *more)

    @cached_property
    def name(self) -> str:
        return "+".join(part.defense.name for part in self.parts)

    @property
    def config(self) -> dict[str, Any]:
        if len(self.parts) == 1:
            return self.parts[0].config
        return {"chain": [{"name": part.defense.name} | part.config for part in self.parts]}

    @cached_property
    def config_text(self) -> str:
        """The parameters as a column of the records."""
        return canonical(self.config)

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
        if not self.is_cheaper_in_attack:
            return self
        return Purifier(
            tuple(
                part
                if part.defense.in_attack is None
                else replace(part, defense=replace(part.defense, **vars(part.defense.in_attack)))
                for part in self.parts
            )
        )

    @property
    def is_cheaper_in_attack(self) -> bool:
        return any(part.defense.in_attack is not None for part in self.parts)

    def copy(self, number: int) -> Purifier:
        """The same recipe carried out with other seeds: what an attacker can train who lacks the weights."""

        role = f"copy-{number}"
        return Purifier(
            tuple(
                replace(part, training=part.training and replace(part.training, role=role), role=role)
                for part in self.parts
            )
        )

    def needs(self) -> tuple[Task, ...]:
        return tuple(part.training for part in self.parts if part.training is not None)
