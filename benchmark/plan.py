"""From a grid to a plan: its cells, and the tasks they need, each once, in an order that can be run.

Pure: no torch, no clock, no disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.cells import Cell, CellMaker, ChosenAttack, Sanity, ThreatRef
from benchmark.errors import UserError, nearest
from benchmark.refs import DatasetRef, DefenseRef, TargetRef
from benchmark.tasks import Once, Part, Purifier, Task, TrainDefense, TrainTarget
from benchmark.threats import ALIASES


@dataclass(frozen=True, eq=False)
class SizedDataset:
    """A data set and how many of its test images to use."""

    dataset: DatasetRef
    n: int


@dataclass(frozen=True, eq=False)
class ChosenDefense:
    """Defenses in sequence (mostly one), a lower limit of images, and the classifier they are trained with.

    `on` gives the defenses for each data set, by its title. `source` is the data set's own by default, the
    cell's target, or a named target with the seed of the cell's.
    """

    on: Mapping[str, tuple[DefenseRef, ...]]
    n: int | None = None
    source: TargetRef | Literal["default", "target"] = "default"


@dataclass(frozen=True, eq=False)
class Product:
    """One block of a grid, resolved: every combination of its members is a cell."""

    datasets: tuple[SizedDataset, ...]
    targets: tuple[TargetRef, ...]
    defenses: tuple[ChosenDefense, ...]
    attacks: tuple[ChosenAttack, ...]
    threats: tuple[ThreatRef, ...]
    target_seeds: tuple[int, ...]
    defense_seeds: tuple[int, ...]
    attack_seeds: tuple[int, ...]
    sources: Mapping[str, TargetRef | None]
    """The default source classifier of each data set, by the data set's title; None where it has none."""
    substitutes: Mapping[str, tuple[TargetRef, ...]] = field(default_factory=dict)
    """Classifiers that suit each data set, for attackers who train one of their own, by its title."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Cells, and their tasks in an order in which each comes after those that it needs."""

    cells: tuple[Cell, ...]
    tasks: tuple[Task, ...] = field(repr=False)

    @property
    def skipped(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.skipped)

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> Plan:
        """The plan of these cells."""
        kept = tuple(cells)
        return cls(kept, tuple(_ordered(kept)))


def make_plan(
    products: Iterable[Product],
    only: Mapping[str, Collection[str]] | None = None,
    *,
    sanity: Sanity = "fast",
) -> Plan:
    """Expand the products, drop duplicates, keep the cells that `only` admits, order the tasks.

    Args:
        products: The blocks of a grid.
        only: Columns of the cell's identity and the values (as text) to keep.
        sanity: `full` makes the costly checks too.

    Raises:
        UserError: `only` names no column, or no cell is left.
    """
    cells: dict[tuple[Any, ...], Cell] = {}
    once = Once()
    for product in products:
        for cell in _cells(product, sanity, once):
            # what its key tells, without working the key out: a plan that is only looked at needs none
            told = (*cell.identity.values(), *(score.key for score in cell.scores))
            cells.setdefault(told, cell)
    wanted = _checked(only or {}, cells.values())
    kept = [cell for cell in cells.values() if all(_is(cell, *pair) for pair in wanted)]
    if not kept:
        raise UserError(
            "nothing to run: no cell of the grid matches every --only"
            if cells
            else "nothing to run: no cell",
            hint=f"of {len(cells)} cells" if cells else "every list needs a member",
        )
    return Plan.of(kept)


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


def _cells(product: Product, sanity: Sanity, once: Once) -> Iterator[Cell]:
    for sized, target_ref, target_seed in itertools.product(
        product.datasets, product.targets, product.target_seeds
    ):
        dataset = sized.dataset
        target = once(TrainTarget, dataset, target_ref, "target", target_ref.seed(target_seed))
        taught_by = product.sources[dataset.title]
        source = None
        if taught_by is not None:
            source = once(TrainTarget, dataset, taught_by, "source", taught_by.seed(0))
        for chosen in product.defenses:
            teacher = source
            if chosen.source != "default":
                ref = target_ref if chosen.source == "target" else chosen.source
                teacher = once(TrainTarget, dataset, ref, "target", ref.seed(target_seed))
            school = _School(dataset, teacher, target, once)
            for purifier in school.purifiers(chosen.on[dataset.title], product.defense_seeds):
                substitutes = product.substitutes.get(dataset.title, ())
                maker = CellMaker(target, purifier, substitutes, sanity, once)
                for met in product.attacks:
                    n = min(limit for limit in (sized.n, chosen.n, met.n) if limit is not None)
                    seeds = product.attack_seeds if met.attack.seeded else (None,)
                    for threat, seed in itertools.product(product.threats, seeds):
                        yield maker.make(met, threat, seed, n)


@dataclass(frozen=True, eq=False)
class _School:
    """Where defenses are trained that stand before `target`: the data, and with which classifier."""

    dataset: DatasetRef
    teacher: TrainTarget | None
    target: TrainTarget
    once: Once

    def purifiers(self, defenses: tuple[DefenseRef, ...], seeds: tuple[int, ...]) -> Iterator[Purifier]:
        """The defenses in sequence, with each seed."""
        seeded = any(defense.trainable or defense.stochastic for defense in defenses)
        for seed in seeds if seeded else (None,):
            yield self.once(Purifier, tuple(self._part(defense, seed) for defense in defenses))

    def _part(self, defense: DefenseRef, seed: int | None) -> Part:
        teacher, training = self.teacher, None
        if defense.trainable and seed is not None:
            if teacher is None:
                raise UserError(
                    f"dataset {self.dataset.title} has no default source classifier to train "
                    f"{defense.name} with",
                    hint="name one as its parameter `source`, or train with the target: `source: target`",
                )
            training = self.once(TrainDefense, teacher.dataset, defense, teacher, seed)
        other = teacher is not None and teacher.role == "target" and teacher.key != self.target.key
        return self.once(Part, defense, training, seed if defense.stochastic else None, other)


def _ordered(cells: Iterable[Cell]) -> Iterable[Task]:
    """The tasks of the cells, each once and after those that it needs."""
    ordered: dict[str, Task] = {}

    def visit(tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.key not in ordered:
                visit(task.needs())
                ordered[task.key] = task

    for cell in cells:
        visit(cell.tasks)
    return ordered.values()
