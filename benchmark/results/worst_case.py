"""The worst case of all attacks within a ball, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.plan.threats import THREATS
from benchmark.results.cell_outcomes import CellOutcomes, FloatArray


def worst_cases(outcomes: Sequence[CellOutcomes], norm: str, eps: float) -> list[FloatArray]:
    """Candidates for the worst case over all images within a ball; the clean image always counts.

    A deterministic pipeline has one candidate: it errs on an image if any attack fooled it.

    For a random pipeline the worst attack of each image is selected by its margin and judged on a fresh draw,
    because taking the worst of several draws would count bad luck as an error. The first candidate selects
    among all outcomes. The others select among the outcomes of each threat, or take one attack alone. So the
    luck of the draws cannot make an attacker who knows more look weaker.

    The outcomes are of cells of one defense and one combination of seeds. A candidate holds the error of each
    image that all cells share.
    """
    n = min(len(o.wrong) for o in outcomes)
    single = [np.where(o.inside(norm, eps), o.wrong, o.clean_wrong)[:n] for o in outcomes]
    clean = [o.clean_wrong[:n] for o in outcomes]
    if not any(o.cell.purifier.stochastic for o in outcomes):
        return [np.stack([*single, *clean]).max(axis=0)]
    subsets = [outcomes]
    for threat in dict.fromkeys(o.cell.threat.name for o in outcomes):
        subsets.append([o for o in outcomes if o.cell.threat.name in (threat, *THREATS[threat].nested)])
    return [*(_select_by_margin(subset, n, norm, eps) for subset in subsets), *single, *clean]


def worst_of(cases: Sequence[FloatArray], n: int) -> FloatArray:
    """The candidate with the highest error on the first n images."""
    return max((case[:n] for case in cases), key=lambda case: float(case.mean()))


def _select_by_margin(outcomes: Sequence[CellOutcomes], n: int, norm: str, eps: float) -> FloatArray:
    """The error of each image under the attack with its largest margin on the draws of the selection."""
    largest, error = np.full(n, -np.inf, dtype=np.float32), np.zeros(n)
    for o in outcomes:
        inside = np.where(o.inside(norm, eps), o.margin, -np.inf)
        for margin, wrong in ((o.clean_margin, o.clean_wrong), (inside, o.wrong)):
            better = margin[:n] > largest
            largest[better], error[better] = margin[:n][better], wrong[:n][better]
    return error
