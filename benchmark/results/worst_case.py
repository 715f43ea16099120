"""The worst case of all attacks within a ball, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics import TOLERANCE
from benchmark.plan.threats import THREATS
from benchmark.results.cell_outcomes import CellOutcomes, FloatArray

_Matrix = NDArray[Any]
"""Values by outcome and image."""


class OutcomeSet:
    """Outcomes of cells of one defense and one combination of seeds, none of them failed.

    Their arrays are stacked once, because every ball asks for the worst case of many of the same cells.
    """

    def __init__(self, outcomes: Sequence[CellOutcomes]) -> None:
        self._outcomes = outcomes
        self._positions = {id(o): number for number, o in enumerate(outcomes)}
        self._stochastic = np.array([o.cell.purifier.stochastic for o in outcomes])
        self._sizes = np.array([len(o.wrong) for o in outcomes])
        self._nearest: dict[str, _Matrix] = {}
        self._stacked: dict[str, _Matrix] = {}

    def counted(self, own: Sequence[CellOutcomes], norm: str, eps: float) -> CountedOutcomes:
        """The outcomes in `own`, and those with at least one image within the ball."""
        if norm not in self._nearest:
            self._nearest[norm] = np.array([o.distances[norm].min() for o in self._outcomes])
        counts = self._nearest[norm] <= eps + TOLERANCE
        reaching = [self._labels[row] for row in counts.nonzero()[0].tolist()]
        counts[[self._positions[id(o)] for o in own]] = True
        return CountedOutcomes(self, counts.nonzero()[0], reaching)

    @cached_property
    def _labels(self) -> list[str]:
        return [o.cell.attack_label for o in self._outcomes]

    def sizes(self, rows: _Matrix) -> _Matrix:
        """The number of images of some outcomes, given by their positions."""
        sizes: _Matrix = self._sizes[rows]
        return sizes

    def any_stochastic(self, rows: _Matrix) -> bool:
        """Whether the pipeline of some outcomes is random."""
        return bool(self._stochastic[rows].any())

    def members(self, rows: _Matrix) -> list[CellOutcomes]:
        """Some outcomes by their positions."""
        return [self._outcomes[row] for row in rows.tolist()]

    def stacked(self, name: str, rows: _Matrix, n: int) -> _Matrix:
        """An attribute of some outcomes, or their distances in a norm, on their first n images."""
        if (self._sizes != n).any():
            return np.stack([_values(o, name)[:n] for o in self.members(rows)])
        if name not in self._stacked:
            self._stacked[name] = np.stack([_values(o, name) for o in self._outcomes])
        chosen: _Matrix = self._stacked[name][rows]
        return chosen


def _values(outcomes: CellOutcomes, name: str) -> _Matrix:
    values: _Matrix = outcomes.distances[name] if name in outcomes.distances else getattr(outcomes, name)
    return values


@dataclass(frozen=True, eq=False)
class CountedOutcomes:
    """The outcomes that count in one ball.

    Attributes:
        rows: Their positions in `all`.
        attacks: The labels of the attacks with an image within the ball.
    """

    all: OutcomeSet
    rows: _Matrix
    attacks: Sequence[str]

    def worst_cases(self, norm: str, eps: float) -> list[FloatArray]:
        """Candidates for the worst case over all images within a ball; the clean image always counts.

        A deterministic pipeline has one candidate: it errs on an image if any attack fooled it.

        For a random pipeline the worst attack of each image is selected by its margin and judged on a fresh
        draw, because taking the worst of several draws would count bad luck as an error. The first candidate
        selects among all outcomes. The others select among the outcomes of each threat, or take one attack
        alone. So the luck of the draws cannot make an attacker who knows more look weaker.

        A candidate holds the error of each image that all cells share.
        """
        n = int(self.all.sizes(self.rows).min())
        clean, wrong, distance = (
            self.all.stacked(name, self.rows, n) for name in ("clean_wrong", "wrong", norm)
        )
        inside = distance <= eps + TOLERANCE
        single = np.where(inside, wrong, clean)
        if not self.all.any_stochastic(self.rows):
            return [np.maximum(single.max(axis=0), clean.max(axis=0))]
        clean_margin, margin = (self.all.stacked(name, self.rows, n) for name in ("clean_margin", "margin"))
        margins = np.stack([clean_margin, np.where(inside, margin, -np.inf)])
        errors = np.stack([clean, wrong])
        threats = [o.cell.threat.name for o in self.all.members(self.rows)]
        subsets = [np.ones(len(threats), dtype=bool)]
        for threat in dict.fromkeys(threats):
            subsets.append(np.isin(threats, (threat, *THREATS[threat].nested)))
        selected = [_select_by_margin(margins[:, subset], errors[:, subset]) for subset in subsets]
        return [*selected, *single, *clean]


def worst_of(cases: Sequence[FloatArray], n: int) -> FloatArray:
    """The candidate with the highest error on the first n images."""
    if len(cases) == 1:
        return cases[0][:n]
    return max((case[:n] for case in cases), key=lambda case: float(case.mean()))


def _select_by_margin(margins: _Matrix, errors: _Matrix) -> FloatArray:
    """The error of each image under the attack with its largest margin on the draws of the selection.

    Both arguments have the shape (2, outcomes, images): the clean images, then the adversarial ones.
    Of equal margins the first counts: the order is that of the outcomes, the clean image of each first.
    """
    n = margins.shape[-1]
    margins = np.where(np.isnan(margins), -np.inf, margins).swapaxes(0, 1).reshape(-1, n)
    first = margins.argmax(axis=0)
    images = np.arange(n)
    error: FloatArray = errors.swapaxes(0, 1).reshape(-1, n)[first, images]
    return np.where(margins[first, images] == -np.inf, 0.0, error)
