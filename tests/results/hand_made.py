"""Cells with hand-made outcomes, one value per image, as the comparisons between cells get them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from benchmark.plan.cells import AttackEntry, Cell, ThreatSpec
from benchmark.plan.plan import DefenseEntry, ResolvedBlock, SizedDataset, make_plan
from benchmark.plan.specs import AttackSpec, DatasetSpec, DefenseSpec, TargetSpec
from benchmark.plan.tasks import PurifierSpec
from benchmark.plan.threats import THREATS
from benchmark.results.cell_outcomes import CellOutcomes, cell_outcomes
from benchmark.results.columns import RECORD_COLUMNS
from benchmark.results.leaderboard import leaderboard
from benchmark.results.records import Result

N = 100


def attack(name: str, eps: float | None = 0.3, norm: Any = "linf", **properties: Any) -> AttackSpec:
    config = {} if eps is None else {"eps": eps}
    return AttackSpec(name, config, config, norm=norm, eps=eps, **properties)


PGD, FGSM, CW = attack("pgd", mandatory=True), attack("fgsm"), attack("cw", eps=None, norm="l2")


def cells(
    *attacks: AttackSpec,
    defenses: Sequence[str] = ("mine", "placebo"),
    seeds: Sequence[int] = (0,),
    n: int = N,
    images: Sequence[str] = (),
) -> list[Cell]:
    """One cell for each defense, attack, threat and seed; defenses called "placebo…" are controls.

    `images` are the names of the classes.
    """
    data = DatasetSpec("data", {}, {}, images="0", test_size=n, class_names=tuple(images))
    controls = {name: name.startswith("placebo") for name in defenses}
    specs = [DefenseSpec(name, {}, {}, trainable=not own, control=own) for name, own in controls.items()]
    block = ResolvedBlock(
        datasets=(SizedDataset(data, n),),
        targets=(TargetSpec("net", {}, {}),),
        defenses=tuple(DefenseEntry({"data": (spec,)}) for spec in specs),
        attacks=tuple(map(AttackEntry, attacks)),
        threats=tuple(ThreatSpec(name, threat.config_type()) for name, threat in THREATS.items()),
        target_seeds=(0,),
        defense_seeds=tuple(seeds),
        attack_seeds=(0,),
        sources={"data": TargetSpec("net", {}, {})},
    )
    return list(make_plan([block]).cells)


def only(*attacks: AttackSpec, threat: str = "white-box", **options: Any) -> list[Cell]:
    """The cells of one defense under one threat, one for each attack."""
    found = cells(*attacks, defenses=("mine",), **options)
    return [cell for cell in found if cell.threat.name == threat]


def is_cell(cell: Cell, defense: str, attack_name: str, threat: str) -> bool:
    return (cell.purifier.name, cell.attack.name, cell.threat.name) == (defense, attack_name, threat)


def made_random(cell: Cell) -> Cell:
    """The same cell with a random defense."""
    return with_defense(cell, stochastic=True)


def with_defense(cell: Cell, **properties: Any) -> Cell:
    """The same cell with other properties of its defense."""
    (part,) = cell.purifier.parts
    part = replace(part, defense=replace(part.defense, **properties))
    return replace(cell, purifier=PurifierSpec((part,)))


def result(
    cell: Cell,
    wrong: Collection[int] = (),
    *,
    clean_wrong: Collection[int] = (),
    loop_wrong: Collection[int] | None = None,
    linf: Any = 0.3,
    margins: Any = None,
    clean_margins: Any = -2.0,
    status: str = "ok",
    flags: str = "",
    n: int = N,
) -> Result:
    """The result of a cell; `wrong`, `clean_wrong` and `loop_wrong` list images that are misclassified."""
    row = dict.fromkeys(RECORD_COLUMNS) | cell.identity | {"status": status, "flags": flags}
    row |= dict.fromkeys(("clean_error", "psnr", "ssim", "purify_ms"), 0.0)
    if status != "ok":
        return Result(row, None)
    fooled = _mask(wrong, n)
    table: dict[str, Any] = {"label": np.zeros(n, dtype=int), "wrong": fooled.astype(float)}
    table |= {"clean_wrong": _mask(clean_wrong, n).astype(float)}
    table |= {"loop_wrong": fooled if loop_wrong is None else _mask(loop_wrong, n)}
    margins = np.where(fooled, 1.0, -1.0) if margins is None else np.asarray(margins, dtype=float)
    table |= {"margin": margins, "clean_margin": np.broadcast_to(clean_margins, n).astype(float)}
    table |= {norm: np.broadcast_to(linf, n).astype(float) for norm in ("l0", "l2", "linf")}
    table |= {name: np.arange(n, dtype=float) for name in ("psnr", "ssim")}
    outcomes = pyarrow.table(table)
    return Result(row, outcomes, outcomes)


def _mask(images: Collection[int], n: int) -> Any:
    mask = np.zeros(n, dtype=bool)
    mask[list(images)] = True
    return mask


def outcomes_of(cases: Iterable[tuple[Cell, Result]]) -> list[CellOutcomes]:
    """The outcomes of cells that were not skipped."""
    found = [cell_outcomes(cell, cell_result) for cell, cell_result in cases]
    return [member for member in found if member is not None]


def board(cases: Iterable[tuple[Cell, Result]], threat: str = "white-box") -> pd.DataFrame:
    """The rows of one threat, by defense."""
    rows = pd.DataFrame(leaderboard(outcomes_of(cases)))
    return rows[rows["threat"] == threat].set_index("defense")
