"""What is kept of each cell when cells are compared: its record and little of each image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmark.cells import Cell
from benchmark.records import Result, Row

TOLERANCE = 1e-6
"""How far float32 rounding may carry an image out of its ball."""

Mask = NDArray[np.bool_]
Numbers = NDArray[np.floating[Any]]
MemberT = TypeVar("MemberT")


@dataclass(frozen=True, eq=False)
class Evidence:
    """A cell's record, and for each image how wrong it was and how far it was moved.

    `loop_wrong`: whether anything made with the defense in the loop fooled the pipeline, as far as it was
    selected.
    """

    cell: Cell
    row: Row
    wrong: Numbers
    clean_wrong: Numbers
    loop_wrong: Mask
    margin: Numbers
    clean_margin: Numbers
    sizes: Mapping[str, Numbers]
    fidelity: Mapping[str, Numbers]

    @property
    def ok(self) -> bool:
        return bool(self.row["status"] == "ok")

    @property
    def fell(self) -> Mask:
        """Which images the pipeline got wrong; where means are judged, more often than not."""
        return self.wrong > 0.5

    def inside(self, norm: str, eps: float) -> Mask:
        """Which of its images lie in the ball, as measured."""
        return self.sizes[norm] <= eps + TOLERANCE


def evidence_of(cell: Cell, result: Result) -> Evidence | None:
    """What a cell's own attack showed; None where it was skipped, nothing per image where it failed."""
    if result.row["status"] == "skipped":
        return None
    if result.own is None:
        none = np.zeros(0, dtype=np.float32)
        return Evidence(cell, result.row, none, none, none.astype(bool), none, none, {}, {})
    values = {name: np.asarray(result.own[name]) for name in result.own.column_names}

    def numbers(*names: str) -> dict[str, Numbers]:
        return {name: values[name].astype(np.float32) for name in names}

    def shares(*names: str) -> dict[str, Numbers]:
        return {name: values[name].astype(np.float64) for name in names}

    return Evidence(
        cell,
        result.row,
        loop_wrong=values["loop_wrong"].astype(bool),
        sizes=numbers("l0", "l2", "linf"),
        fidelity=numbers("psnr", "ssim"),
        **shares("wrong", "clean_wrong"),
        **numbers("margin", "clean_margin"),
    )


def contest(evidence: Evidence) -> tuple[Hashable, ...]:
    """What defenses are compared within: data, target and attacker."""
    row = evidence.row
    return tuple(row[name] for name in ("dataset", "target", "target_config", "threat", "threat_config"))


def ball(evidence: Evidence) -> tuple[Hashable, ...]:
    """The norm and radius that its attack was given."""
    return (evidence.cell.attack.norm, evidence.cell.attack.eps)


def defense(evidence: Evidence) -> tuple[Hashable, ...]:
    """The defense and its parameters."""
    return (evidence.row["defense"], evidence.row["defense_config"])


def grouped(members: Iterable[MemberT], by: Callable[[MemberT], Hashable]) -> list[list[MemberT]]:
    """The members in groups, in the order in which these are met."""
    groups: dict[Hashable, list[MemberT]] = {}
    for member in members:
        groups.setdefault(by(member), []).append(member)
    return list(groups.values())
