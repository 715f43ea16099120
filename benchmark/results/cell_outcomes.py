"""The outcomes of a cell, image by image, as comparisons between cells need them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmark.files.tables import Row
from benchmark.plan.cells import Cell
from benchmark.results.records import Result

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]
MemberT = TypeVar("MemberT")
KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, eq=False)
class CellOutcomes:
    """A cell with its record, and arrays with one value per image; empty arrays if the cell failed.

    Attributes:
        wrong: Error of the pipeline on the adversarial image: 0 or 1; a mean over several draws lies between.
        clean_wrong: The same for the clean image.
        loop_wrong: Whether an image made with the defense in the loop fooled the pipeline when the worst
            candidate was selected.
        margin: Margin of the adversarial image on the draws of the selection; positive if misclassified.
        clean_margin: The same for the clean image.
        distances: By norm, the distance of the adversarial image from the clean one.
        fidelity: PSNR in dB and SSIM of the purified image.
    """

    cell: Cell
    record: Row
    wrong: FloatArray
    clean_wrong: FloatArray
    loop_wrong: BoolArray
    margin: FloatArray
    clean_margin: FloatArray
    distances: Mapping[str, FloatArray]
    fidelity: Mapping[str, FloatArray]

    @property
    def ok(self) -> bool:
        return bool(self.record["status"] == "ok")

    @property
    def misclassified(self) -> BoolArray:
        """Images that the pipeline misclassified; with several judged draws, in more than half of them."""
        return self.wrong > 0.5


def cell_outcomes(cell: Cell, result: Result) -> CellOutcomes | None:
    """The outcomes of a cell's own attack; None for a skipped cell."""
    if result.record["status"] == "skipped":
        return None
    if result.own is None:
        empty = np.zeros(0, dtype=np.float32)
        return CellOutcomes(cell, result.record, empty, empty, empty > 0, empty, empty, {}, {})
    values = {name: np.asarray(result.own[name]) for name in result.own.column_names}

    def numbers(*names: str) -> dict[str, FloatArray]:
        return {name: values[name].astype(np.float32) for name in names}

    return CellOutcomes(
        cell,
        result.record,
        wrong=values["wrong"].astype(np.float64),
        clean_wrong=values["clean_wrong"].astype(np.float64),
        loop_wrong=values["loop_wrong"].astype(bool),
        **numbers("margin", "clean_margin"),
        distances=numbers("l0", "l2", "linf"),
        fidelity=numbers("psnr", "ssim"),
    )


def comparison_group(outcomes: CellOutcomes) -> tuple[Hashable, ...]:
    """Data set, target and attacker: defenses are compared if these are the same."""
    names = ("dataset", "target", "target_config", "threat", "threat_config")
    return tuple(outcomes.record[name] for name in names)


def ball(outcomes: CellOutcomes) -> tuple[Hashable, ...]:
    """The norm and radius that the attack was given."""
    return (outcomes.cell.attack.norm, outcomes.cell.attack.eps)


def defense(outcomes: CellOutcomes) -> tuple[Hashable, ...]:
    """The defense and its parameters."""
    return (outcomes.record["defense"], outcomes.record["defense_config"])


def group_by(members: Iterable[MemberT], key: Callable[[MemberT], KeyT]) -> dict[KeyT, list[MemberT]]:
    """The members by their key; keys are in the order of their first member."""
    groups: dict[KeyT, list[MemberT]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return groups
