"""Named doubts and notes about a cell. `FLAGS.md` says the same in words for people.

A doubt withholds a claim of robustness, never a success: the row prints `error ≥ x` and has no rank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.cells import Cell
from benchmark.stats import at_chance, exchanged_classes
from benchmark.threats import THREATS

_UNCHECKED = "unchecked:"

_MOVED_SHARE = 0.5

_ENOUGH_DRAWS = 10

_APART = 1e-3
"""Mean difference of a pixel from which on two outputs are not the same."""

_MOST = 0.5

_COLLAPSED = 0.01

_LUCK = 0.05

_ALONG = 0.6
"""Cosine from which on a gradient leads along the slope; of honest pipelines it was mostly 0.7 or more."""


@dataclass(frozen=True)
class Flag:
    """A flag: how serious it is and when it is raised; what to do about it is in `FLAGS.md`.

    `of_target`: it is about the bare target, so that it stays on rows that no image survives.
    """

    kind: Literal["doubt", "note"]
    raised_if: str
    of_target: bool = False


FLAGS: dict[str, Flag] = {
    "zero-gradient": Flag(
        "doubt",
        "an image survives where the attack had no gradient to follow: at the bare target, or through a "
        "pipeline that has a slope there and whose bare target it fools; or gradients that were not numbers "
        "were met",
    ),
    "undeclared-file": Flag(
        "doubt",
        "the target, the defense, the attack or the data set opened a file that is none of its parameters: "
        "the file may have changed since the figures were made",
    ),
    "not-moved": Flag(
        "doubt",
        "the images that survive were moved by less than half of eps on average",
    ),
    "purifier-not-trained": Flag(
        "doubt",
        "the trained defense adds more clean error than its gate allows (5 points unless it says otherwise)",
    ),
    "not-converged": Flag(
        "doubt",
        "twice the steps, restarts and draws still break more images, or two losses break different numbers "
        "of them (preset `strong`)",
    ),
    "single-beats-multi": Flag(
        "doubt",
        "an attack of many steps broke fewer images than one of a single step in the same ball (p < 0.01)",
    ),
    "black-beats-white": Flag(
        "doubt",
        "the best gradient attack with the defense in the loop broke fewer images than the best one that "
        "does not know it, in the same ball (p < 0.01)",
    ),
    "not-monotone": Flag(
        "doubt",
        "the same attack of many steps broke fewer images in a larger ball (p < 0.01)",
    ),
    "noise-beats-attack": Flag(
        "doubt",
        "random points of the ball broke images that the attack did not: with noise as an attack of the "
        "grid, more of them (p < 0.01); in a search of 100 points for each image, any that survived",
    ),
    "unbounded-fails": Flag(
        "doubt",
        "in a ball that holds every image, another class's included, the attack still left images right",
    ),
    "fd-mismatch": Flag(
        "doubt",
        "at most of the images at which the pipeline has a slope, no gradient an attack follows leads along "
        "it (cosine with finite differences below 0.6)",
    ),
    "hidden-randomness": Flag(
        "doubt",
        "the same images come out otherwise at a later call, with gradients on or asked as attacks ask; or "
        "the pipeline was wrong about an image when it was attacked and right when it was judged",
    ),
    "batch-dependent": Flag(
        "doubt",
        "images come out otherwise alone than among others",
    ),
    "target-dependent": Flag(
        "doubt",
        "the purified images that are taken for one class hardly differ: the defense decides, and the "
        "target only reads it",
    ),
    "probabilities-not-logits": Flag(
        "doubt",
        "the target's scores are probabilities, whose gradients vanish where it is sure, or differ in their "
        "last digits alone",
    ),
    "target-at-chance": Flag(
        "doubt",
        "the bare target, or the one that the images were made on, is no better than chance on the clean "
        "images: its classes may be in another order, its normalisation may be missing, or labels may begin "
        "at 1",
        of_target=True,
    ),
    "class-order": Flag(
        "doubt",
        "the bare target, or the one that the images were made on, takes the images of some classes mostly "
        "for another class, and those of that class mostly for something else again: some of its classes may "
        "be in another order, or their labels exchanged",
        of_target=True,
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
        "with the defense in the loop a trained attack, or one that follows no gradient, broke over 2 points "
        "more images than each attack that the ball requires (leaderboard rows only)",
    ),
    "inner-optimisation": Flag(
        "note",
        "the defense runs an optimisation on each image, whose gradient no attack can follow exactly",
    ),
    "scaled-scores": Flag(
        "note",
        "the target's scores are too small or too large for the cross-entropy, and attacks followed them "
        "multiplied by one factor",
        of_target=True,
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


def is_unchecked(flag: str) -> bool:
    """Whether it says that a check did not run."""
    return flag.startswith(_UNCHECKED)


def is_doubt(name: str) -> bool:
    """Whether a flag withholds the claim of its row."""
    return FLAGS[name].kind == "doubt"


@dataclass(frozen=True, eq=False)
class Findings:
    """What the checks of a cell found, as the tasks of `benchmark.tasks.checking` store it.

    Attributes:
        apart: For each of a few images, how far outputs are apart that should be the same, by way of asking.
        examined: What else was found of the pipeline.
        contradicted: Images that the pipeline was wrong about when attacked and right about when judged.
        efforts: How much of the attack it took, as each search for it found.
        slope: Whether the pipeline has a slope at each of a few images, and the best cosine of a gradient
            with it; None where no gradients are followed.
        unbounded: How wrong the pipeline was in the ball that holds every image.
        noise: Which of the first images random points are wrong about.
    """

    apart: Mapping[str, NDArray[np.float32]]
    examined: Mapping[str, Any]
    contradicted: int
    efforts: Sequence[Mapping[str, Any]]
    slope: Mapping[str, NDArray[Any]] | None
    unbounded: NDArray[np.float32] | None
    noise: NDArray[np.bool_] | None


def cell_flags(cell: Cell, *, clean_error: float, clean_error_target: float) -> list[str]:
    """The flags that follow from what the cell is.

    Args:
        cell: The cell.
        clean_error: Of the pipeline.
        clean_error_target: Of the bare target.
    """
    found = []
    threat, purifier = THREATS[cell.threat.name], cell.purifier
    if threat.starts_from_target_only and not (cell.attack.takes_start or cell.attack.needs_latents):
        found.append(f"{_UNCHECKED}from-target-only")
    if purifier.trainable and clean_error - clean_error_target > purifier.gate:
        found.append("purifier-not-trained")
    if "pipeline" in threat.probes:
        if purifier.is_cheaper_in_attack:
            found.append("cheap-surface")
        if purifier.stochastic:
            minimal = cell.attack.uses == "gradients" and cell.attack.eps is None
            if minimal or cell.threat.config["eot"] < _ENOUGH_DRAWS:
                found.append("few-draws")
    if any(part.defense.inner_optimisation for part in purifier.parts):
        found.append("inner-optimisation")
    if cell.attack.weak_backend:
        found.append("weak-backend")
    return found


def target_flags(
    cell: Cell, *, answers: Sequence[NDArray[Any]], labels: NDArray[Any], score_factors: Collection[float]
) -> list[str]:
    """What is found of the bare target, and of the one that the images were made on.

    Args:
        cell: The cell.
        answers: Of each of these targets, its classes for the clean images.
        labels: The true classes.
        score_factors: What its scores were multiplied by in each attack.
    """
    found = []
    if any(at_chance(predicted, labels, len(cell.dataset.class_names)) for predicted in answers):
        found.append("target-at-chance")
    if any(exchanged_classes(predicted, labels) for predicted in answers):
        found.append("class-order")
    if cell.attack.uses in ("gradients", "scores") and any(factor != 1 for factor in score_factors):
        found.append("scaled-scores")
    return found


def gradient_flags(
    cell: Cell,
    *,
    survives: NDArray[np.bool_],
    baseline_wrong: NDArray[np.bool_],
    target_blind: NDArray[np.bool_],
    attacked_blind: NDArray[np.bool_],
    attacked_moves: NDArray[np.bool_],
    lost_gradients: bool,
) -> list[str]:
    """Whether an attack that follows gradients was given some.

    Args:
        cell: The cell.
        survives: Which images the pipeline gets right under the cell's attack.
        baseline_wrong: Which images the bare target gets wrong under the same attack.
        target_blind: At which clean images the bare target has no gradient, of the loss that is followed.
        attacked_blind: The same of what the threat attacks.
        attacked_moves: At which of them its scores change with the image all the same.
        lost_gradients: Whether an attack met gradients that were not numbers.
    """
    hidden = survives & baseline_wrong & attacked_blind
    # between the steps of a quantiser zero is the true gradient; a step may lie next to some image
    untrue = bool(hidden.any()) and attacked_moves[hidden].mean() >= _MOST
    return ["zero-gradient"] if untrue or bool((survives & (target_blind | lost_gradients)).any()) else []


def movement_flags(cell: Cell, *, survives: NDArray[np.bool_], size: NDArray[np.float64]) -> list[str]:
    """Whether the attack moved the images that survive; `size` is how far, in the cell's norm."""
    eps = cell.attack.eps
    bounded = eps is not None and cell.attack.norm == "linf" and not cell.attack.needs_latents
    if bounded and survives.any() and size[survives].mean() < _MOVED_SHARE * (eps or 0):
        return ["not-moved"]
    return []


def check_flags(cell: Cell, survives: NDArray[np.bool_], findings: Findings) -> list[str]:
    """What the checks found, and `unchecked:` for those that were not made."""
    if not survives.any():
        return []  # what claims nothing has nothing to withhold
    found = [flag for flag, raised in _pipeline_doubts(findings).items() if raised]
    if "preset" in cell.threat.config and cell.attack.grows:
        if cell.threat.config["preset"] == "fast" or not findings.efforts:
            found.append(f"{_UNCHECKED}not-converged")
        elif not all(effort["converged"] and effort["losses_agree"] for effort in findings.efforts):
            found.append("not-converged")
    if not THREATS[cell.threat.name].knows_all or cell.attack.unbounded is None:
        return found
    random = cell.purifier.stochastic
    for flag, raised in _costly_doubts(survives, findings, random=random).items():
        if raised is None:
            found.append(f"{_UNCHECKED}{flag}")
        elif raised:
            found.append(flag)
    return found


def _pipeline_doubts(findings: Findings) -> dict[str, bool]:
    apart = {how: float((amounts > _APART).mean()) >= _MOST for how, amounts in findings.apart.items()}
    return {
        "hidden-randomness": any(apart[how] for how in ("repeat_call", "with_gradients", "attack_call"))
        or findings.contradicted > 0,
        "batch-dependent": apart["batch_of_one"],
        "target-dependent": findings.examined["spread"] < _COLLAPSED,
        "probabilities-not-logits": bool(findings.examined["probabilities"]),
        "fd-mismatch": findings.slope is not None and _leads_nowhere(**findings.slope),
    }


def _leads_nowhere(has_slope: NDArray[np.bool_], cosine: NDArray[np.float32]) -> bool:
    """Whether gradients miss a slope that is there, at half of the images at least."""
    return bool(has_slope.mean() >= _MOST and (cosine[has_slope] < _ALONG).mean() > _MOST)


def _costly_doubts(
    survives: NDArray[np.bool_], findings: Findings, *, random: bool
) -> dict[str, bool | None]:
    """By flag: whether it is raised, None where nobody looked; a `random` pipeline may be right by luck."""
    doubts: dict[str, bool | None] = dict.fromkeys(("unbounded-fails", "noise-beats-attack"))
    if findings.unbounded is not None:
        right = float((findings.unbounded <= _MOST).mean())
        doubts["unbounded-fails"] = right > (_LUCK if random else 0)
    if findings.noise is not None:
        n = min(len(survives), len(findings.noise))
        doubts["noise-beats-attack"] = bool((survives[:n] & findings.noise[:n]).any())
    return doubts
