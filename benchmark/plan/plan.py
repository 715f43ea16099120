"""From a grid to a plan: its cells, and the tasks that they need, in an order in which they can run.

This module is pure: it uses no torch, no clock and no disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from benchmark.errors import UserError, nearest
from benchmark.plan.cells import AttackEntry, Cell, CellBuilder, Sanity, ThreatSpec
from benchmark.plan.specs import DatasetSpec, DefenseSpec, TargetSpec
from benchmark.plan.tasks import Interner, PurifierSpec, PurifierStage, Task, TrainDefense, TrainTarget
from benchmark.plan.threats import ALIASES


@dataclass(frozen=True, eq=False)
class SizedDataset:
    """A data set and the number of its test images to use."""

    dataset: DatasetSpec
    n: int


@dataclass(frozen=True, eq=False)
class DefenseEntry:
    """One defense or several in sequence, and the source classifier that they are trained with.

    `on` gives the defenses for each data set, by its title. `n` limits the images. `source` is the default
    source of the data set, the target of the cell, or a named target, trained with the cell's target seed.
    """

    on: Mapping[str, tuple[DefenseSpec, ...]]
    n: int | None = None
    source: TargetSpec | Literal["default", "target"] = "default"


@dataclass(frozen=True, eq=False)
class ResolvedBlock:
    """One block of a grid, resolved: every combination of its members is a cell."""

    datasets: tuple[SizedDataset, ...]
    targets: tuple[TargetSpec, ...]
    defenses: tuple[DefenseEntry, ...]
    attacks: tuple[AttackEntry, ...]
    threats: tuple[ThreatSpec, ...]
    target_seeds: tuple[int, ...]
    defense_seeds: tuple[int, ...]
    attack_seeds: tuple[int, ...]
    sources: Mapping[str, TargetSpec | None]
    """The default source classifier of each data set, by the title of the data set; None if it has none."""
    substitutes: Mapping[str, tuple[TargetSpec, ...]] = field(default_factory=dict)
    """Classifiers for each data set that attackers can train as substitutes, by the title of the data set."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Cells and their tasks. Each task comes after the tasks that it needs."""

    cells: tuple[Cell, ...]
    tasks: tuple[Task, ...] = field(repr=False)

    @property
    def skipped(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.skipped)

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> Plan:
        """The plan of these cells."""
        cells = tuple(cells)
        return cls(cells, tuple(_ordered(cells)))


def make_plan(
    blocks: Iterable[ResolvedBlock],
    only: Mapping[str, Collection[str]] | None = None,
    *,
    sanity: Sanity = "fast",
) -> Plan:
    """Expand the blocks, drop duplicate cells, keep the cells that match `only`, and order the tasks.

    `only` has the values (as text) to keep, by the column of the cell's identity. If it names an unknown
    column or value, or no cell remains, a `UserError` is raised. `sanity`: `full` adds the costly checks.
    """
    cells: dict[tuple[Any, ...], Cell] = {}
    intern = Interner()
    for block in blocks:
        for cell in _cells(block, sanity, intern):
            # equal exactly if the keys are equal; a dry run never needs to compute the keys
            identity = (*cell.identity.values(), *(score.key for score in cell.scores))
            cells.setdefault(identity, cell)
    only = only or {}
    _check_only(only, cells.values())
    kept = [cell for cell in cells.values() if all(_matches(cell, *pair) for pair in only.items())]
    if not cells:
        raise UserError("nothing to run: no cell", hint="each list of the grid needs at least one entry")
    if not kept:
        message = "nothing to run: no cell of the grid matches every --only"
        raise UserError(
            message, hint=f"the grid has {len(cells)} cells; each --only alone keeps some of them"
        )
    return Plan.of(kept)


def _check_only(only: Mapping[str, Collection[str]], cells: Collection[Cell]) -> None:
    for column, values in only.items():
        columns = {name for cell in cells for name in cell.identity}
        if cells and column not in columns:
            raise UserError(f"--only: unknown column {column!r}", hint=nearest(column, columns))
        for value in values:
            if not any(_matches(cell, column, [value]) for cell in cells):
                hint = nearest(value, {str(cell.identity[column]) for cell in cells})
                raise UserError(f"--only: no cell of the grid has {column} {value!r}", hint=hint)


def _matches(cell: Cell, column: str, values: Collection[str]) -> bool:
    own = cell.identity[column]
    return any(own == _parse_like(own, value) for value in values)


def _parse_like(example: Any, text: str) -> Any:
    """The text as a value of the column that `example` is from: a number, or a threat without its alias."""
    if isinstance(example, float | int) and not isinstance(example, bool):
        try:
            return float(text)
        except ValueError:
            return text
    return ALIASES.get(text, text) if isinstance(example, str) else text or None


def _cells(block: ResolvedBlock, sanity: Sanity, intern: Interner) -> Iterator[Cell]:
    for sized, target_spec, target_seed in product(block.datasets, block.targets, block.target_seeds):
        dataset = sized.dataset
        target = intern(TrainTarget, dataset, target_spec, "target", target_spec.seed(target_seed))
        for defense in block.defenses:
            named = {"default": block.sources[dataset.title], "target": target_spec}
            spec = named[defense.source] if isinstance(defense.source, str) else defense.source
            role, source_seed = ("source", 0) if defense.source == "default" else ("target", target_seed)
            own_seed = None if spec is None else spec.seed(source_seed)
            source = None if spec is None else intern(TrainTarget, dataset, spec, role, own_seed)
            defenses = defense.on[dataset.title]
            for purifier in _purifiers(defenses, block.defense_seeds, source, target, intern):
                substitutes = block.substitutes.get(dataset.title, ())
                builder = CellBuilder(target, purifier, substitutes, sanity, intern)
                for entry in block.attacks:
                    n = min(limit for limit in (sized.n, defense.n, entry.n) if limit is not None)
                    seeds = block.attack_seeds if entry.attack.seeded else (None,)
                    for threat, seed in product(block.threats, seeds):
                        yield builder.build(entry, threat, seed, n)


def _purifiers(
    defenses: Iterable[DefenseSpec],
    seeds: Iterable[int],
    source: TrainTarget | None,
    target: TrainTarget,
    intern: Interner,
) -> Iterator[PurifierSpec]:
    """The defenses in sequence in front of `target`, once per seed if any of them depends on a seed."""
    seeded = any(defense.trainable or defense.stochastic for defense in defenses)
    other = source is not None and source.role == "target" and source.key != target.key
    for seed in seeds if seeded else (None,):
        stages = []
        for defense in defenses:
            training = None
            if defense.trainable and seed is not None:
                if source is None:
                    title = target.dataset.title
                    raise UserError(
                        f"dataset {title} has no default source classifier to train {defense.name} with",
                        hint="name one as its parameter `source`, or train with the target: `source: target`",
                    )
                training = intern(TrainDefense, source.dataset, defense, source, seed)
            own_seed = seed if defense.stochastic else None
            stages.append(intern(PurifierStage, defense, training, own_seed, other))
        yield intern(PurifierSpec, tuple(stages))


def _ordered(cells: Iterable[Cell]) -> Iterable[Task]:
    """The tasks of the cells without duplicates, each after the tasks that it needs."""
    ordered: dict[str, Task] = {}

    def visit(tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.key not in ordered:
                visit(task.needs())
                ordered[task.key] = task

    for cell in cells:
        visit(cell.tasks)
    return ordered.values()
