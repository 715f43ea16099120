"""The cells of a grid, one per row of the records, and the tasks that each cell consists of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from benchmark.plan.specs import AttackSpec, DatasetSpec, TargetSpec
from benchmark.plan.tasks import (
    SHARD_SIZE,
    ConsistencyCheck,
    ConvergenceSearch,
    Craft,
    FiniteDifferenceCheck,
    GradientProbe,
    Interner,
    PurifierSpec,
    RandomSearch,
    Score,
    Shard,
    Task,
    TrainTarget,
)
from benchmark.plan.threats import THREATS
from benchmark.plan.threats.base import Setting, Threat, ThreatConfig
from benchmark.storage.keys import FrozenJson, canonical, digest

_SEARCH_IMAGES = 64  # for convergence searches and costly checks
_FINITE_DIFFERENCE_IMAGES = 8
_RANDOM_POINTS = 100

Sanity = Literal["fast", "full"]


@dataclass(frozen=True, eq=False)
class ThreatSpec:
    """A threat by name, with its parameters."""

    name: str
    parameters: ThreatConfig

    @property
    def config(self) -> dict[str, Any]:
        """The parameters as JSON."""
        return self.parameters.model_dump(mode="json")

    @cached_property
    def changed(self) -> FrozenJson:
        """The parameters that differ from their defaults."""
        return FrozenJson(self.parameters.model_dump(mode="json", exclude_defaults=True))

    @cached_property
    def config_text(self) -> str:
        """The parameters as text, for a column of the records."""
        return canonical(self.config)


@dataclass(frozen=True, eq=False)
class AttackEntry:
    """An attack of a grid; `n` limits its images, `craft_on` replaces the target of the cell if set."""

    attack: AttackSpec
    n: int | None = None
    craft_on: TargetSpec | None = None


@dataclass(frozen=True, eq=False)
class Checks:
    """The checks of a cell. The last two are costly and run only if the user asks for them.

    `unbounded` scores the attack in a ball that holds every image.
    """

    consistency: ConsistencyCheck
    finite_differences: FiniteDifferenceCheck | None = None
    unbounded: Score | None = None
    random_search: RandomSearch | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for task in vars(self).values() if task is not None)


@dataclass(frozen=True, eq=False)
class Cell:
    """One row of the records. A seed is None if nothing depends on it.

    `craft_on` is the target that the images were made on, if it differs from the target that they are shown
    to. `skipped` says why the cell is not run.
    """

    dataset: DatasetSpec
    target: TrainTarget
    purifier: PurifierSpec
    attack: AttackSpec
    threat: ThreatSpec
    attack_seed: int | None
    n: int
    scores: tuple[Score, ...]
    probes: tuple[GradientProbe, ...]
    checks: Checks | None = None
    craft_on: TrainTarget | None = None
    skipped: str | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks whose results its row is computed from."""
        return (*self.probes, *(self.checks.tasks if self.checks else ()), *self.scores)

    @property
    def convergence_searches(self) -> tuple[ConvergenceSearch, ...]:
        """The searches that decide how many steps, restarts and draws its attacks use."""
        crafts = [candidate.craft for score in self.scores for candidate in score.candidates]
        searches = [craft.convergence for craft in crafts if isinstance(craft, Craft) and craft.convergence]
        return tuple({search.key: search for search in searches}.values())

    @cached_property
    def key(self) -> str:
        """The identity of the row: everything that its numbers depend on.

        The configuration columns are not part of it, because they also show parameters at their defaults.
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
        """The attack's parameters without those that have their own column, and the target it was run on."""
        if self.craft_on is None:
            return self.attack.config_text
        base = {"name": self.craft_on.label} | dict(self.craft_on.target.config)
        return canonical(self.attack.shown | {"craft_on": base})

    @property
    def attack_label(self) -> str:
        """The attack's name, and the target that its images were made on if that is another one."""
        return self.attack.name + (f"@{self.craft_on.label}" if self.craft_on else "")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The columns that identify the cell."""
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
            "judge": self.threat.parameters.judge,
            "targeted": self.attack.targeted,
            "norm": self.attack.norm,
            "eps": self.attack.eps,
            "target_seed": self.target.seed,
            "defense_seed": self.purifier.seed,
            "attack_seed": self.attack_seed,
            "n": self.n,
        }


@dataclass(frozen=True, eq=False)
class CellBuilder:
    """Builds the cells of one purifier in front of one target."""

    target: TrainTarget
    purifier: PurifierSpec
    substitutes: tuple[TargetSpec, ...]
    sanity: Sanity
    intern: Interner

    def build(self, entry: AttackEntry, threat: ThreatSpec, seed: int | None, n: int) -> Cell:
        """The cell of one attack under one threat, on `n` images."""
        rules = THREATS[threat.name]
        base = self._base(entry.craft_on, rules)
        # Images made on another classifier say nothing about the strongest attack on this one.
        attack = entry.attack if base is None else self.intern(_not_mandatory, entry.attack)
        refusal = (
            rules.refuses(attack, self.purifier)
            or rules.refuses_target(self.target, self.substitutes)
            or rules.refuses_images_of(base.label if base else None)
        )
        few = self._shard(0, min(_SEARCH_IMAGES, n))
        fixed = (self.target, self.purifier, attack, seed)
        setting = Setting(*fixed, few, few, threat.parameters, self.substitutes, base, self.intern)
        scores: list[Score] = []
        probes: list[GradientProbe] = []
        for start in range(0, 0 if refusal else n, SHARD_SIZE):
            shard = self._shard(start, min(start + SHARD_SIZE, n))
            on_shard = replace(setting, shard=shard)
            scores.append(self._score(on_shard, rules))
            probes += [self.intern(GradientProbe, on_shard.surface(form), shard) for form in rules.probes]
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
            checks=None if refusal else self._checks(setting, rules, scores[0]),
            craft_on=base,
            skipped=refusal,
        )

    def _base(self, craft_on: TargetSpec | None, threat: type[Threat]) -> TrainTarget | None:
        """The target named by `craft_on`, with the data and the seed of the cell's target.

        None if the attack has no `craft_on`. None also if it names the cell's own target and the threat makes
        images on the target anyway. Under other threats the own target is returned, and the cell is skipped.
        """
        if craft_on is None:
            return None
        own = self.target
        base = self.intern(TrainTarget, own.dataset, craft_on, own.role, craft_on.seed(own.seed))
        return None if base.key == own.key and threat.images_made_on_target else base

    def _shard(self, start: int, stop: int) -> Shard:
        return self.intern(Shard, self.target.dataset, start, stop)

    def _score(self, setting: Setting, threat: type[Threat]) -> Score:
        judged = ["judge", *(f"judge-{number}" for number in range(1, setting.config.draws))]
        draws = judged if self.purifier.stochastic else ["select"]
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

    def _checks(self, setting: Setting, threat: type[Threat], first: Score) -> Checks:
        """The checks of a cell, on the images of its `first` score; `setting` has the few search images."""
        attack = setting.attack
        consistency = self.intern(ConsistencyCheck, self.purifier, first.shard, self.target, first.clean)
        checks = Checks(consistency, self._finite_differences(first) if threat.knows_all else None)
        if self.sanity == "fast" or not threat.knows_all or attack.unbounded is None:
            return checks
        parameters, eps = attack.unbounded
        unbounded = replace(attack, **vars(parameters), eps=eps)
        return replace(
            checks,
            unbounded=self._score(replace(setting, attack=unbounded), threat),
            # among many random points, some fool a random defense by chance
            random_search=None if self.purifier.stochastic else RandomSearch(first, _RANDOM_POINTS),
        )

    def _finite_differences(self, first: Score) -> FiniteDifferenceCheck | None:
        """The check that the gradients that the attack uses through the pipeline are informative."""
        attack, crafts = first.attack, [candidate.craft for candidate in first.candidates]
        if attack.uses != "gradients" or attack.needs_latents:
            return None
        surfaces = [craft.surface for craft in crafts if isinstance(craft, Craft)]
        through = [s for s in surfaces if s.purifier is not None and s.purified_set is None]
        one_draw = {s.key: s if s.draws is None else replace(s, draws=1) for s in through}
        shard = self._shard(0, min(_FINITE_DIFFERENCE_IMAGES, first.shard.stop))
        return self.intern(FiniteDifferenceCheck, tuple(one_draw.values()), shard)


def _not_mandatory(attack: AttackSpec) -> AttackSpec:
    return replace(attack, mandatory=False, unbounded=None)
