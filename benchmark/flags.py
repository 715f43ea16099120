"""Named doubts and notes about a cell. `FLAGS.md` says the same in words for people.

A doubt withholds a claim of robustness, never a success: the row prints `error ≥ x` and has no rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.plan import Cell
from benchmark.threats import THREATS

_MOVED_SHARE = 0.5

_ENOUGH_DRAWS = 10


@dataclass(frozen=True)
class Flag:
    """A flag: how serious it is and when it is raised; what to do about it is in `FLAGS.md`."""

    kind: Literal["doubt", "note"]
    raised_if: str


FLAGS: dict[str, Flag] = {
    "zero-gradient": Flag(
        "doubt",
        "an image survives where the attack had no gradient to follow: at the bare target, or through a "
        "pipeline whose bare target it fools; or gradients that were not numbers were met",
    ),
    "not-moved": Flag(
        "doubt",
        "the images that survive were moved by less than half of eps on average",
    ),
    "purifier-not-trained": Flag(
        "doubt",
        "the trained defense adds more clean error than its gate allows (5 points unless it says otherwise)",
    ),
    "incomplete": Flag(
        "doubt",
        "an attack that is mandatory for the ball failed or was not in the grid (leaderboard rows only)",
    ),
    "cheap-surface": Flag(
        "doubt",
        "attacks ran a cheaper setting of the defense, which its plugin offers; the real one judged what "
        "they found (white-box)",
    ),
    "few-draws": Flag(
        "doubt",
        "the defense is random, and attacks averaged fewer than ten of its draws at each step, or stop at "
        "the first success, as those do that minimise a norm (white-box)",
    ),
    "weak-gradient-attack": Flag(
        "doubt",
        "with the defense in the loop a trained attack broke over 2 points more images than each attack that "
        "the ball requires (leaderboard rows only)",
    ),
    "weak-backend": Flag(
        "note",
        "the library chosen for the attack is known to run it weaker than another one does",
    ),
    "below-control": Flag(
        "note",
        "the worst-case error is not significantly lower than that of every control of the same grid "
        "(exact McNemar test, one-sided 5 %, Holm-corrected; leaderboard rows only)",
    ),
}


def is_doubt(name: str) -> bool:
    """Whether a flag withholds the claim of its row."""
    return FLAGS[name].kind == "doubt"


def cell_flags(
    cell: Cell,
    *,
    survives: NDArray[np.bool_],
    baseline_wrong: NDArray[np.bool_],
    size: NDArray[np.float64],
    target_blind: NDArray[np.bool_],
    attacked_blind: NDArray[np.bool_],
    lost_gradients: bool,
    clean_error: float,
    clean_error_target: float,
) -> list[str]:
    """The flags of one cell.

    Args:
        cell: The cell.
        survives: Which images the pipeline gets right under the cell's attack.
        baseline_wrong: Which images the bare target gets wrong under the same attack.
        size: How far each image was moved, in the cell's norm.
        target_blind: At which clean images the bare target has no gradient, of the loss that is followed.
        attacked_blind: The same of what the threat attacks.
        lost_gradients: Whether an attack met gradients that were not numbers.
        clean_error: Of the pipeline.
        clean_error_target: Of the bare target.
    """
    found = []
    threat = THREATS[cell.threat.name]
    if threat.starts_from_target_only and not cell.attack.takes_start:
        found.append("unchecked:from-target-only")
    if cell.attack.uses == "gradients":
        blind = target_blind | (baseline_wrong & attacked_blind) | lost_gradients
        if bool((survives & blind).any()):
            found.append("zero-gradient")
    eps = cell.attack.eps
    if eps and cell.attack.norm == "linf" and survives.any() and size[survives].mean() < _MOVED_SHARE * eps:
        found.append("not-moved")
    purifier = cell.purifier
    if purifier.trainable and clean_error - clean_error_target > purifier.gate:
        found.append("purifier-not-trained")
    if not threat.images_made_on_target and purifier.is_cheaper_in_attack:
        found.append("cheap-surface")
    if purifier.stochastic and not threat.images_made_on_target:
        minimal = cell.attack.uses == "gradients" and cell.attack.eps is None
        if minimal or cell.threat.config["eot"] < _ENOUGH_DRAWS:
            found.append("few-draws")
    if cell.attack.weak_backend:
        found.append("weak-backend")
    return found
