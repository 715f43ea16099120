"""Tasks that train classifiers and defenses, and the purifiers built from the trained defenses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from benchmark.plan.specs import DatasetSpec, DefenseSpec, PluginSpec, TargetSpec
from benchmark.plan.tasks.base import Task
from benchmark.storage.keys import canonical, digest, seed_from


@dataclass(frozen=True, eq=False)
class TrainTarget(Task):
    """Train a classifier, or load a pretrained one.

    `role` is "target" for the classifier under attack, "source" for the separate classifier that a defense is
    trained with, and "substitute" for one that an attacker trains.
    """

    dataset: DatasetSpec
    target: TargetSpec
    role: str
    seed: int | None

    kind = "train-target"

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.role, self.dataset.name, self.target.name, self.seed)


@dataclass(frozen=True, eq=False)
class TrainDefense(Task):
    """Train a purifier with a source classifier. The `infer` fields are not part of its key.

    `role` is "defense", or "copy-N" for a copy that an attacker trains.
    """

    dataset: DatasetSpec
    defense: DefenseSpec
    source: TrainTarget
    seed: int
    role: str = "defense"

    kind = "train-defense"

    def content(self) -> dict[str, Any]:
        return super().content() | {"defense": self.defense.limited_to(self.defense.train_fields)}

    @property
    def stream(self) -> tuple[Any, ...]:
        return (self.role, self.dataset.name, self.defense.name, self.seed)

    @property
    def runs(self) -> tuple[PluginSpec, ...]:
        return (self.defense, self.source.target)


@dataclass(frozen=True, eq=False)
class PurifierStage:
    """One defense of a purifier: its configuration, its training if trainable, its seed if random.

    `source_is_other_target`: the defense was trained with a target other than the one that it protects.
    `role` is "defense", or "copy-N" for a copy that an attacker makes.
    """

    defense: DefenseSpec
    training: TrainDefense | None = None
    seed: int | None = None
    source_is_other_target: bool = False
    role: str = "defense"

    @property
    def content(self) -> dict[str, Any]:
        training = self.training.key if self.training else None
        seeded = {} if self.seed is None else {"seed": self.seed, "role": self.role}
        return {"defense": self.defense.content, "training": training} | seeded

    @property
    def stream(self) -> tuple[Any, ...]:
        """The values from which the seeds of this stage follow: role, defense, and own or training seed."""
        training_seed = None if self.training is None else self.training.seed
        return (self.role, self.defense.name, training_seed if self.seed is None else self.seed)

    @property
    def config(self) -> dict[str, Any]:
        """The parameters, the source if it is not the default, and whether the preset was changed."""
        config = self.defense.shown | ({"preset_changed": True} if self.defense.preset_changed else {})
        if self.training is not None and self.training.source.role == "target":
            source = self.training.source.target
            named = {"name": source.name, **source.config}
            config["source"] = named if self.source_is_other_target else "target"
        return config


@dataclass(frozen=True, eq=False)
class PurifierSpec:
    """One defense, or several in sequence. Its properties follow from those of its stages, `parts`."""

    parts: tuple[PurifierStage, ...]

    @cached_property
    def key(self) -> str:
        return digest([stage.content for stage in self.parts])

    @property
    def stream(self) -> list[tuple[Any, ...]]:
        """Identifies the random numbers of the stages, in their order."""
        return [stage.stream for stage in self.parts]

    @property
    def runs(self) -> tuple[DefenseSpec, ...]:
        """The plugins that it consists of."""
        return tuple(stage.defense for stage in self.parts)

    def seed_for(self, purpose: str, dataset: DatasetSpec, *more: Any) -> int:
        """A seed for noise of this purifier. All shards use the same seed: noise is indexed by image."""
        return seed_from(purpose, dataset.name, self.stream, *more)

    @cached_property
    def name(self) -> str:
        return "+".join(stage.defense.name for stage in self.parts)

    @property
    def config(self) -> dict[str, Any]:
        if len(self.parts) == 1:
            return self.parts[0].config
        return {"chain": [{"name": stage.defense.name} | stage.config for stage in self.parts]}

    @cached_property
    def config_text(self) -> str:
        """The parameters as text, for a column of the records."""
        return canonical(self.config)

    @property
    def trainable(self) -> bool:
        return any(defense.trainable for defense in self.runs)

    @property
    def stochastic(self) -> bool:
        return any(defense.stochastic for defense in self.runs)

    @property
    def control(self) -> bool:
        return all(defense.control for defense in self.runs)

    @property
    def is_identity(self) -> bool:
        """Whether it returns its input, as each stage declares. `PurifierModule` checks every call."""
        return all(defense.is_identity for defense in self.runs)

    @property
    def decides_label(self) -> bool:
        """Whether the last stage decides the label; earlier stages only change the input of the last one."""
        return self.parts[-1].defense.decides_label

    @property
    def gate(self) -> float:
        """The widest gate of the trained stages; untrained stages add none."""
        return max((defense.gate for defense in self.runs if defense.trainable), default=0.0)

    @property
    def seed(self) -> int | None:
        """The defense seed of the row; None if no stage depends on a seed."""
        seeds = [stage.training.seed if stage.training else stage.seed for stage in self.parts]
        return next((seed for seed in seeds if seed is not None), None)

    @cached_property
    def in_attack(self) -> PurifierSpec:
        """The purifier that attacks run: this one, or its cheaper setting if it has one."""
        if not self.is_cheaper_in_attack:
            return self
        defenses = [d if d.in_attack is None else replace(d, **vars(d.in_attack)) for d in self.runs]
        stages = zip(self.parts, defenses, strict=True)
        return PurifierSpec(tuple(replace(stage, defense=defense) for stage, defense in stages))

    @property
    def is_cheaper_in_attack(self) -> bool:
        return any(defense.in_attack is not None for defense in self.runs)

    def copy(self, number: int) -> PurifierSpec:
        """The same defenses trained with other seeds, as by an attacker who does not have the weights."""
        role = f"copy-{number}"
        trainings = [stage.training and replace(stage.training, role=role) for stage in self.parts]
        stages = zip(self.parts, trainings, strict=True)
        return PurifierSpec(tuple(replace(stage, training=t, role=role) for stage, t in stages))

    def needs(self) -> tuple[Task, ...]:
        return tuple(stage.training for stage in self.parts if stage.training is not None)
