"""The cells of a grid, one for each row of the records, and how they are made of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from benchmark.keys import Fixed, canonical, digest
from benchmark.refs import AttackRef, DatasetRef, TargetRef
from benchmark.tasks import (
    SHARD_SIZE,
    Craft,
    Effort,
    Examine,
    NoiseSearch,
    Once,
    Probe,
    Purifier,
    Score,
    Shard,
    Slope,
    Task,
    TrainTarget,
)
from benchmark.threats import THREATS
from benchmark.threats.contract import Setting, Threat, ThreatConfig

_FIRST = 64
"""Images on which efforts are found and costly checks are made."""

_SLOPE_IMAGES = 8

_NOISE_SAMPLES = 100

Sanity = Literal["fast", "full"]


@dataclass(frozen=True, eq=False)
class ThreatRef:
    """A threat by name, with its configuration."""

    name: str
    config: Mapping[str, Any]

    @cached_property
    def typed(self) -> ThreatConfig:
        return THREATS[self.name].config_type(**self.config)

    @cached_property
    def changed(self) -> Fixed:
        """The parameters that differ from their defaults."""
        return Fixed(self.typed.model_dump(mode="json", exclude_defaults=True))

    @cached_property
    def config_text(self) -> str:
        """The parameters as a column of the records."""
        return canonical(dict(self.config))


@dataclass(frozen=True, eq=False)
class ChosenAttack:
    """An attack, a lower limit of images if it has one, and the target to run it on if not the cell's own."""

    attack: AttackRef
    n: int | None = None
    craft_on: TargetRef | None = None


@dataclass(frozen=True, eq=False)
class Checks:
    """What is looked for beside errors. The last two are costly, and made where the user asks for them."""

    examine: Examine
    slope: Slope | None = None
    unbounded: Score | None = None
    noise: NoiseSearch | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        there = (self.examine, self.slope, self.unbounded, self.noise)
        return tuple(task for task in there if task is not None)


@dataclass(frozen=True, eq=False)
class Cell:
    """One row of the records. A seed is None where nothing depends on it.

    `craft_on` is the target that the images were made on, where that is another than the one they are
    shown to.
    """

    dataset: DatasetRef
    target: TrainTarget
    purifier: Purifier
    attack: AttackRef
    threat: ThreatRef
    attack_seed: int | None
    n: int
    scores: tuple[Score, ...]
    probes: tuple[Probe, ...]
    checks: Checks | None = None
    craft_on: TrainTarget | None = None
    skipped: str | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What its row is made of."""
        return (*self.probes, *(self.checks.tasks if self.checks else ()), *self.scores)

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """The searches for how much of the attack is worth it."""
        crafts = [candidate.craft for score in self.scores for candidate in score.candidates]
        found = [craft.effort for craft in crafts if isinstance(craft, Craft) and craft.effort is not None]
        return tuple({effort.key: effort for effort in found}.values())

    @cached_property
    def key(self) -> str:
        """The identity of the row: of all that its figures depend on.

        The columns of configurations are not in it: they show parameters at their defaults too.
        """
        names = {name: value for name, value in self.identity.items() if not name.endswith("_config")}
        parts = {
            "target": self.target.target.content,
            "defense": self.purifier.key,
            "attack": self.attack.content,
            "threat": self.threat.changed,
            "craft_on": self.craft_on and self.craft_on.key,
        }
        return digest({"names": names, "parts": parts, "scores": [score.key for score in self.scores]})

    @property
    def attack_config(self) -> str:
        """The attack's parameters, less those with a column of their own, and what it was run on."""
        if self.craft_on is None:
            return self.attack.config_text
        base = {"name": self.craft_on.label} | dict(self.craft_on.target.config)
        return canonical(self.attack.shown | {"craft_on": base})

    @property
    def attack_label(self) -> str:
        """The attack's name, with the target that its images were made on where that is another one."""
        return self.attack.name + (f"@{self.craft_on.label}" if self.craft_on else "")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The columns that name the cell."""
        return {
            "dataset": self.dataset.title,
            "target": self.target.target.name,
            "target_config": self.target.target.config_text,
            "defense": self.purifier.name,
            "defense_config": self.purifier.config_text,
            "attack": self.attack.name,
            "attack_config": self.attack_config,
            "backend": self.attack.backend,
            "threat": self.threat.name,
            "threat_config": self.threat.config_text,
            "judge": self.threat.config["judge"],
            "targeted": self.attack.targeted,
            "norm": self.attack.norm,
            "eps": self.attack.eps,
            "target_seed": self.target.seed,
            "defense_seed": self.purifier.seed,
            "attack_seed": self.attack_seed,
            "n": self.n,
        }


@dataclass(frozen=True, eq=False)
class CellMaker:
    """Makes the cells of one purifier in front of one target."""

    target: TrainTarget
    purifier: Purifier
    substitutes: tuple[TargetRef, ...]
    sanity: Sanity
    once: Once

    def make(self, met: ChosenAttack, threat: ThreatRef, seed: int | None, n: int) -> Cell:
        """The cell of one attack under one threat, on `n` images."""
        kind = THREATS[threat.name]
        base = self._base(met.craft_on, kind)
        # What was found on another classifier proves nothing about the strongest attack on this one.
        attack = met.attack if base is None else self.once(_not_mandatory, met.attack)
        refusal = (
            kind.refuses(attack, self.purifier)
            or kind.refuses_target(self.target, self.substitutes)
            or kind.refuses_images_of(base.label if base else None)
        )
        scores: list[Score] = []
        probes: list[Probe] = []
        for start in range(0, 0 if refusal else n, SHARD_SIZE):
            shard = self._shard(start, min(start + SHARD_SIZE, n))
            setting = self._setting(attack, threat, seed, shard, self._shard(0, min(_FIRST, n)), base)
            scores.append(self._score(setting, kind))
            probes += [self.once(Probe, setting.surface(form), shard) for form in kind.probes]
        return Cell(
            dataset=self.target.dataset,
            target=self.target,
            purifier=self.purifier,
            attack=attack,
            threat=threat,
            attack_seed=seed,
            n=n,
            scores=tuple(scores),
            probes=tuple(probes),
            checks=None if refusal else self._checks(attack, threat, seed, scores[0]),
            craft_on=base,
            skipped=refusal,
        )

    def _base(self, craft_on: TargetRef | None, threat: type[Threat]) -> TrainTarget | None:
        """The target that the images are made on, where that is not the cell's own.

        It has the data and the seed of the cell's: an adversarially trained target meets its own base model.
        """
        if craft_on is None:
            return None
        own = self.target
        base = self.once(TrainTarget, own.dataset, craft_on, own.role, craft_on.seed(own.seed))
        return None if base.key == own.key and threat.images_made_on_target else base

    def _shard(self, start: int, stop: int) -> Shard:
        return self.once(Shard, self.target.dataset, start, stop)

    def _setting(
        self,
        attack: AttackRef,
        threat: ThreatRef,
        seed: int | None,
        shard: Shard,
        first: Shard,
        base: TrainTarget | None = None,
    ) -> Setting:
        return Setting(
            self.target,
            self.purifier,
            attack,
            seed,
            shard,
            first,
            config=threat.typed,
            substitutes=self.substitutes,
            craft_on=base,
            once=self.once,
        )

    def _score(self, setting: Setting, threat: type[Threat]) -> Score:
        draws = ["select"]
        if self.purifier.stochastic:
            draws = ["judge", *(f"judge-{number}" for number in range(1, setting.config.draws))]
        return Score(
            target=self.target,
            purifier=self.purifier,
            attack=setting.attack,
            shard=setting.shard,
            judge=setting.config.judge,
            candidates=threat.candidates(setting),
            baseline=threat.baseline(setting),
            clean=setting.purify(None),
            clean_judged=tuple(setting.purify(None, draw) for draw in draws),
            threat=(threat.name, threat.version),
        )

    def _checks(self, attack: AttackRef, threat: ThreatRef, seed: int | None, first: Score) -> Checks:
        kind = THREATS[threat.name]
        examine = self.once(Examine, self.target, self.purifier, first.shard, first.clean)
        checks = Checks(examine, self._slope(first) if kind.knows_all else None)
        if self.sanity == "fast" or not kind.knows_all or attack.unbounded is None:
            return checks
        everywhere = replace(attack, **vars(attack.unbounded.parameters), eps=attack.unbounded.eps)
        few = self._shard(0, min(_FIRST, first.shard.stop))
        setting = self._setting(everywhere, threat, seed, few, few)
        return replace(
            checks,
            unbounded=self._score(setting, kind),
            # of many points some fool a random defense by chance
            noise=None if self.purifier.stochastic else NoiseSearch(first, _NOISE_SAMPLES),
        )

    def _slope(self, first: Score) -> Slope | None:
        """Whether the gradients that the attack follows through the pipeline are of any use to it."""
        attack, crafts = first.attack, [candidate.craft for candidate in first.candidates]
        if attack.uses != "gradients" or attack.needs_latents:
            return None
        followed = [craft.surface for craft in crafts if isinstance(craft, Craft)]
        through = [s for s in followed if s.purifier is not None and s.bank is None]
        one_draw = {s.key: s if s.draws is None else replace(s, draws=1) for s in through}
        shard = self._shard(0, min(_SLOPE_IMAGES, first.shard.stop))
        return self.once(Slope, tuple(one_draw.values()), shard)


def _not_mandatory(attack: AttackRef) -> AttackRef:
    return replace(attack, mandatory=False, unbounded=None)
