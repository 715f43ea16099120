"""From a grid to a plan: its cells, and the tasks they need, each once, in an order that can be run.

Pure: no torch, no clock, no disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from benchmark.errors import UserError, nearest
from benchmark.keys import canonical, digest
from benchmark.refs import AttackRef, DatasetRef, DefenseRef, PluginRef
from benchmark.tasks import (
    SHARD_SIZE,
    Craft,
    Effort,
    Examine,
    NoiseSearch,
    Part,
    Probe,
    Protocol,
    Purifier,
    Purify,
    Score,
    Shard,
    Slope,
    Task,
    TrainDefense,
    TrainTarget,
)
from benchmark.threats import ALIASES, THREATS
from benchmark.threats.contract import Setting, ThreatConfig

_FIRST = 64
"""Images on which efforts are found and costly checks are made."""

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


@dataclass(frozen=True, eq=False)
class SizedDataset:
    """A data set and how many of its test images to use."""

    dataset: DatasetRef
    n: int


@dataclass(frozen=True, eq=False)
class ChosenDefense:
    """Defenses in sequence (mostly one), a lower limit of images, and whether the target is their source.

    `on` gives the defenses for each data set, by its title.
    """

    on: Mapping[str, tuple[DefenseRef, ...]]
    n: int | None = None
    source_is_target: bool = False


@dataclass(frozen=True, eq=False)
class ChosenAttack:
    """An attack, and a lower limit of images if it has one."""

    attack: AttackRef
    n: int | None = None


@dataclass(frozen=True, eq=False)
class Product:
    """One block of a grid, resolved: every combination of its members is a cell."""

    datasets: tuple[SizedDataset, ...]
    targets: tuple[PluginRef, ...]
    defenses: tuple[ChosenDefense, ...]
    attacks: tuple[ChosenAttack, ...]
    threats: tuple[ThreatRef, ...]
    target_seeds: tuple[int, ...]
    defense_seeds: tuple[int, ...]
    attack_seeds: tuple[int, ...]
    sources: Mapping[str, PluginRef]
    """The default source classifier of each data set, by the data set's name."""
    substitutes: Mapping[str, tuple[PluginRef, ...]] = field(default_factory=dict)
    """Classifiers that suit each data set, for attackers who train one of their own."""


@dataclass(frozen=True, eq=False)
class Checks:
    """What is looked for beside errors. The last three are costly, and made where the user asks for them."""

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
    """One row of the records. A seed is None where nothing depends on it."""

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
    skipped: str | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What its row is made of."""
        return (*self.probes, *(self.checks.tasks if self.checks else ()), *self.scores)

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """What was found to be worth it, for each surface."""
        crafts = [candidate.craft for score in self.scores for candidate in score.candidates]
        found = [craft.effort for craft in crafts if isinstance(craft, Craft) and craft.effort is not None]
        return tuple({effort.key: effort for effort in found}.values())

    @property
    def key(self) -> str:
        """The identity of the row: of all that its figures depend on."""
        return digest({"identity": self.identity, "scores": [score.key for score in self.scores]})

    @property
    def attack_config(self) -> dict[str, Any]:
        """The attack's parameters, less those with a column of their own."""
        return {k: v for k, v in self.attack.config.items() if k not in ("eps", "backend")}

    @property
    def identity(self) -> dict[str, Any]:
        """The columns that name the cell."""
        return {
            "dataset": self.dataset.title,
            "target": self.target.target.name,
            "target_config": canonical(dict(self.target.target.config)),
            "defense": self.purifier.name,
            "defense_config": canonical(self.purifier.config),
            "attack": self.attack.name,
            "attack_config": canonical(self.attack_config),
            "backend": self.attack.backend,
            "threat": self.threat.name,
            "threat_config": canonical(dict(self.threat.config)),
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
class Plan:
    """Cells, and their tasks in an order in which each comes after those that it needs."""

    cells: tuple[Cell, ...]
    tasks: tuple[Task, ...] = field(repr=False)

    @property
    def skipped(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.skipped)


def make_plan(
    products: Iterable[Product],
    protocol: Protocol,
    only: Mapping[str, Collection[str]] | None = None,
    *,
    sanity: Sanity = "fast",
) -> Plan:
    """Expand the products, drop duplicates, keep the cells that `only` admits, order the tasks.

    Args:
        products: The blocks of a grid.
        protocol: The harness's part in every key.
        only: Columns of the cell's identity and the values (as text) to keep.
        sanity: `full` makes the costly checks too.

    Raises:
        UserError: `only` names no column, or no cell is left.
    """
    cells: dict[str, Cell] = {}
    for product in products:
        for cell in _cells(product, protocol, sanity):
            cells.setdefault(cell.key, cell)
    kept = [
        cell
        for cell in cells.values()
        if all(_is(cell, *pair) for pair in _checked(only or {}, cells.values()))
    ]
    if not kept:
        raise UserError(
            "nothing to run: no cell of the grid matches every --only"
            if cells
            else "nothing to run: no cell",
            hint=f"of {len(cells)} cells" if cells else "every list needs a member",
        )
    return Plan(tuple(kept), tuple(_ordered(kept)))


def _checked(
    only: Mapping[str, Collection[str]], cells: Collection[Cell]
) -> list[tuple[str, Collection[str]]]:
    """The pairs of `only`, each of whose values some cell has."""
    for name, values in only.items():
        columns = {column for cell in cells for column in cell.identity}
        if cells and name not in columns:
            raise UserError(f"--only: unknown column {name!r}", hint=nearest(name, columns))
        for value in values:
            if not any(_is(cell, name, [value]) for cell in cells):
                there = {str(cell.identity[name]) for cell in cells}
                raise UserError(
                    f"--only: no cell of the grid has {name} {value!r}", hint=nearest(value, there)
                )
    return list(only.items())


def _is(cell: Cell, name: str, values: Collection[str]) -> bool:
    own = cell.identity[name]
    return any(own == _read(value, own) for value in values)


def _read(text: str, like: Any) -> Any:
    """The text as the user meant it: a number beside numbers, a threat by its alias too."""
    if isinstance(like, float | int) and not isinstance(like, bool):
        try:
            return float(text)
        except ValueError:
            return text
    return ALIASES.get(text, text) if isinstance(like, str) else text or None


def _cells(product: Product, protocol: Protocol, sanity: Sanity) -> Iterator[Cell]:
    for sized, target_ref, target_seed in itertools.product(
        product.datasets, product.targets, product.target_seeds
    ):
        dataset = sized.dataset
        target = TrainTarget(protocol, dataset, target_ref, "target", target_seed)
        source = TrainTarget(protocol, dataset, product.sources[dataset.name], "source", 0)
        for chosen in product.defenses:
            teacher = target if chosen.source_is_target else source
            for purifier in _purifiers(chosen.on[dataset.title], teacher, product.defense_seeds):
                for met in product.attacks:
                    n = min(limit for limit in (sized.n, chosen.n, met.n) if limit is not None)
                    seeds = product.attack_seeds if met.attack.seeded else (None,)
                    for threat, seed in itertools.product(product.threats, seeds):
                        substitutes = product.substitutes.get(dataset.name, ())
                        yield _Cells(target, purifier, substitutes, sanity).make(met.attack, threat, seed, n)


def _purifiers(
    defenses: tuple[DefenseRef, ...], source: TrainTarget, seeds: tuple[int, ...]
) -> Iterator[Purifier]:
    seeded = any(defense.trainable or defense.stochastic for defense in defenses)
    for seed in seeds if seeded else (None,):
        yield Purifier(tuple(_part(defense, source, seed) for defense in defenses))


def _part(defense: DefenseRef, source: TrainTarget, seed: int | None) -> Part:
    training = None
    if defense.trainable and seed is not None:
        training = TrainDefense(source.protocol, source.dataset, defense, source, seed)
    return Part(defense, training, seed if defense.stochastic else None)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Makes the cells of one purifier in front of one target."""

    target: TrainTarget
    purifier: Purifier
    substitutes: tuple[PluginRef, ...]
    sanity: Sanity

    def make(self, attack: AttackRef, threat: ThreatRef, seed: int | None, n: int) -> Cell:
        refusal = THREATS[threat.name].refuses(attack, self.purifier)
        scores: list[Score] = []
        probes: list[Probe] = []
        for start in range(0, 0 if refusal else n, SHARD_SIZE):
            setting = self._setting(attack, threat, seed, n, start)
            scores.append(self._score(setting, threat))
            probes += [
                Probe(self.target.protocol, setting.surface(form), setting.shard)
                for form in THREATS[threat.name].probes
            ]
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
            checks=None if refusal else self._checks(attack, threat, seed, n, scores[0]),
            skipped=refusal,
        )

    def _setting(
        self,
        attack: AttackRef,
        threat: ThreatRef,
        seed: int | None,
        n: int,
        start: int,
        stop: int | None = None,
    ) -> Setting:
        dataset = self.target.dataset
        return Setting(
            self.target.protocol,
            self.target,
            self.purifier,
            attack,
            seed,
            shard=Shard(dataset, start, stop or min(start + SHARD_SIZE, n)),
            first=Shard(dataset, 0, min(_FIRST, n)),
            config=threat.typed,
            substitutes=self.substitutes,
        )

    def _score(self, setting: Setting, threat: ThreatRef) -> Score:
        draws = setting.config.draws if self.purifier.stochastic else 1
        names = (
            ["select"]
            if not self.purifier.stochastic
            else ["judge", *(f"judge-{i}" for i in range(1, draws))]
        )
        return Score(
            setting.protocol,
            target=self.target,
            purifier=self.purifier,
            attack=setting.attack,
            shard=setting.shard,
            judge=setting.config.judge,
            candidates=THREATS[threat.name].candidates(setting),
            baseline=THREATS[threat.name].baseline(setting),
            clean=self._purify(setting.shard),
            clean_judged=tuple(self._purify(setting.shard, name) for name in names),
        )

    def _purify(self, shard: Shard, draw: str = "select") -> Purify:
        return Purify(self.target.protocol, self.purifier, shard, None, draw)

    def _checks(self, attack: AttackRef, threat: ThreatRef, seed: int | None, n: int, first: Score) -> Checks:
        protocol = self.target.protocol
        examine = Examine(protocol, self.target, self.purifier, first.shard, self._purify(first.shard))
        knows_all = THREATS[threat.name].knows_all
        if self.sanity == "fast" or not knows_all or attack.eps is None or attack.unbounded is None:
            return Checks(examine)
        everywhere = replace(attack, config=attack.unbounded.config, eps=attack.unbounded.eps)
        setting = self._setting(everywhere, threat, seed, n, 0, min(_FIRST, n))
        return Checks(
            examine,
            slope=Slope(protocol, setting.surface("pipeline"), setting.first),
            unbounded=self._score(setting, threat),
            noise=NoiseSearch(protocol, first, _NOISE_SAMPLES),
        )


def _ordered(cells: Iterable[Cell]) -> Iterator[Task]:
    seen: set[str] = set()

    def visit(task: Task) -> Iterator[Task]:
        if task.key in seen:
            return
        seen.add(task.key)
        for needed in task.needs():
            yield from visit(needed)
        yield task

    for cell in cells:
        for task in cell.tasks:
            yield from visit(task)
