"""Flags: named doubts and notes about a record or a leaderboard row. `FLAGS.md` explains each one.

A doubt withholds a claim of robustness, never a success of the attacker: the row shows `error ≥ x` and has no
rank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.statistics import at_chance, exchanged_classes
from benchmark.plan.cells import Cell
from benchmark.plan.threats import THREATS

_UNCHECKED = "unchecked:"
_HALF = 0.5
_ENOUGH_DRAWS = 10
_COLLAPSED = 0.01
_LUCK = 0.05

_SAME_OUTPUT = 1e-3
"""Two outputs are not the same if their pixels differ by this much on average."""

_ALONG_SLOPE = 0.6
"""Least cosine of a useful gradient with the slope; with honest pipelines it was mostly 0.7 or more."""


@dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
        raised_if: The condition in short; `FLAGS.md` has the details, the reason and the remedy.
        kind: A doubt withholds the rank of a row, a note does not.
        of_target: Whether it is about the bare target. Such a flag stays on rows without any robust image.
    """

    raised_if: str
    kind: Literal["doubt", "note"] = "doubt"
    of_target: bool = False


FLAGS: dict[str, Flag] = {
    "zero-gradient": Flag(
        "an image is robust where the attack had no gradient to follow, or gradients were not numbers"
    ),
    "undeclared-file": Flag(
        "a plugin opened a file that is not among its parameters and may have changed since"
    ),
    "not-moved": Flag("the attack moved the robust images by less than half of eps on average"),
    "purifier-not-trained": Flag(
        "the trained defense adds more clean error than its gate allows (5 points by default)"
    ),
    "not-converged": Flag(
        "more steps, restarts and draws fool the pipeline on more images, or two losses on different numbers"
    ),
    "single-beats-multi": Flag(
        "in the same ball an attack of many steps fooled the pipeline less often than one step (p < 0.01)"
    ),
    "black-beats-white": Flag(
        "in the same ball the best gradient attack with the defense in the loop fooled the pipeline less "
        "often than the best one that does not know the defense (p < 0.01)",
    ),
    "not-monotone": Flag("the same attack fooled the pipeline less often in a larger ball (p < 0.01)"),
    "noise-beats-attack": Flag(
        "random points of the ball fooled the pipeline more often than the attack (p < 0.01), or a search of "
        "100 points per image fooled it on an image that the attack left robust",
    ),
    "unbounded-fails": Flag("the attack left images robust in a ball that holds every image of every class"),
    "fd-mismatch": Flag(
        "at most images where the pipeline has a slope, no gradient that an attack follows points along it "
        "(cosine with finite differences below 0.6)",
    ),
    "hidden-randomness": Flag(
        "the same images give other outputs at a later call, with gradients on, or when called as in an "
        "attack, or an image was misclassified during the attack and robust when it was judged",
    ),
    "batch-dependent": Flag("images give other outputs alone than in a batch with others"),
    "target-dependent": Flag(
        "the purified images of one predicted class hardly differ, so the defense decides and not the target"
    ),
    "probabilities-not-logits": Flag(
        "the target's scores are probabilities, whose gradients vanish, or differ only in their last digits"
    ),
    "target-at-chance": Flag(
        "the bare target, or that of `craft_on`, is no better than chance on the clean images: its classes "
        "may be in another order, its normalisation may be missing, or labels may begin at 1",
        of_target=True,
    ),
    "class-order": Flag(
        "the bare target, or that of `craft_on`, mostly predicts a class Y for images of a class X, and "
        "mostly another class for those of Y: classes may be in another order or exchanged",
        of_target=True,
    ),
    "incomplete": Flag(
        "a mandatory attack of the ball failed or was not in the grid (leaderboard rows only)"
    ),
    "cheap-surface": Flag(
        "white-box attacks ran a cheaper setting of the defense, and the real setting judged their images"
    ),
    "few-draws": Flag(
        "the defense is random, and the white-box attack averaged fewer than ten draws at each step, or "
        "minimises a norm and stops at its first success",
    ),
    "weak-gradient-attack": Flag(
        "with the defense in the loop a trained or gradient-free attack fooled the pipeline on over 2 points "
        "more images than each mandatory attack of the ball (leaderboard rows only)",
    ),
    "inner-optimisation": Flag(
        "the defense runs an optimisation on each image, whose exact gradient no attack can follow", "note"
    ),
    "scaled-scores": Flag(
        "the target's scores are too small or too large for the cross-entropy, so attacks rescaled them",
        "note",
        of_target=True,
    ),
    "weak-backend": Flag("the library chosen for the attack runs it weaker than another library", "note"),
    "below-control": Flag(
        "the worst-case error is not significantly lower than that of every control of the same grid "
        "(exact McNemar test, one-sided 5 %, Holm-corrected; leaderboard rows only)",
        "note",
    ),
}


def is_unchecked(flag: str) -> bool:
    """Whether a flag says that a check did not run."""
    return flag.startswith(_UNCHECKED)


def is_doubt(name: str) -> bool:
    """Whether a flag withholds the claim of its row."""
    return FLAGS[name].kind == "doubt"


def any_doubt(flags: str) -> bool:
    """Whether a text of flags holds a doubt that this version knows."""
    return any(flag in FLAGS and is_doubt(flag) for flag in flags.split())


@dataclass(frozen=True, eq=False)
class CheckResults:
    """The stored results of the checks of a cell, tasks of `benchmark.plan.tasks.scoring`.

    Attributes:
        differences: By kind of call, for each of a few images, the difference of outputs that should agree.
        contradicted: Number of images misclassified during the attack and robust when judged.
        slope: For each of a few images, whether the pipeline has a slope there (`has_slope`) and the best
            cosine of a gradient with it (`cosine`); None if the attack follows no gradients.
        unbounded: Error on each image in the ball that holds every image; None if not run.
        noise: Which of the first images random points fooled; None if not run.
    """

    differences: Mapping[str, NDArray[np.float32]]
    consistency: Mapping[str, Any]
    contradicted: int
    searches: Sequence[Mapping[str, Any]]
    slope: Mapping[str, NDArray[Any]] | None
    unbounded: NDArray[np.float32] | None
    noise: NDArray[np.bool_] | None


def cell_flags(cell: Cell, *, clean_error: float, clean_error_target: float) -> list[str]:
    """The flags that follow from the settings of a cell and its clean errors."""
    flags = []
    threat, purifier = THREATS[cell.threat.name], cell.purifier
    if threat.expects_start_from_target_only and not (cell.attack.takes_start or cell.attack.needs_latents):
        flags.append(f"{_UNCHECKED}from-target-only")
    if purifier.trainable and clean_error - clean_error_target > purifier.gate:
        flags.append("purifier-not-trained")
    if "pipeline" in threat.probes:
        if purifier.is_cheaper_in_attack:
            flags.append("cheap-surface")
        if purifier.stochastic:
            minimises_norm = cell.attack.uses == "gradients" and cell.attack.eps is None
            if minimises_norm or cell.threat.config["eot"] < _ENOUGH_DRAWS:
                flags.append("few-draws")
    if any(part.defense.inner_optimisation for part in purifier.parts):
        flags.append("inner-optimisation")
    if cell.attack.weak_backend:
        flags.append("weak-backend")
    return flags


def target_flags(
    cell: Cell, *, predictions: Sequence[NDArray[Any]], labels: NDArray[Any], score_factors: Collection[float]
) -> list[str]:
    """Flags about the bare target, and about the target that the images were made on.

    Args:
        predictions: Predicted classes of the clean images, by each of these targets.
        score_factors: The factors by which attacks multiplied the scores.
    """
    flags = []
    if any(at_chance(predicted, labels, len(cell.dataset.class_names)) for predicted in predictions):
        flags.append("target-at-chance")
    if any(exchanged_classes(predicted, labels) for predicted in predictions):
        flags.append("class-order")
    if cell.attack.uses in ("gradients", "scores") and any(factor != 1 for factor in score_factors):
        flags.append("scaled-scores")
    return flags


def gradient_flags(
    *,
    robust: NDArray[np.bool_],
    baseline_misclassified: NDArray[np.bool_],
    target_without_gradient: NDArray[np.bool_],
    attacked_without_gradient: NDArray[np.bool_],
    attacked_responds: NDArray[np.bool_],
    nonfinite_gradients: bool,
) -> list[str]:
    """Whether a gradient attack had gradients to follow. All arrays have one value per image.

    Args:
        baseline_misclassified: Images that the bare target misclassifies under the same attack.
        target_without_gradient: Clean images at which the followed loss has no gradient at the bare target.
        attacked_without_gradient: The same at the surface that the threat attacks.
        attacked_responds: Clean images at which the scores of that surface change with the image.
    """
    suspects = robust & baseline_misclassified & attacked_without_gradient
    # Between the steps of a quantiser the true gradient is zero; near some images there may be a step.
    masked = bool(suspects.any()) and attacked_responds[suspects].mean() >= _HALF
    unusable = bool((robust & (target_without_gradient | nonfinite_gradients)).any())
    return ["zero-gradient"] if masked or unusable else []


def check_flags(
    cell: Cell, *, robust: NDArray[np.bool_], distance: NDArray[np.float64], results: CheckResults
) -> list[str]:
    """The flags that the checks raise, and `unchecked:` for checks that did not run.

    `distance` is that of each image from the clean image, in the norm of the cell.
    """
    if not robust.any():
        return []  # no robustness is claimed, so nothing can be withheld
    eps, bounded = cell.attack.eps, cell.attack.norm == "linf" and not cell.attack.needs_latents
    not_moved = eps is not None and bounded and distance[robust].mean() < _HALF * eps
    flags = ["not-moved"] if not_moved else []
    flags += [flag for flag, raised in _pipeline_doubts(results).items() if raised]
    if "preset" in cell.threat.config and cell.attack.scalable:
        if cell.threat.config["preset"] == "fast" or not results.searches:
            flags.append(f"{_UNCHECKED}not-converged")
        elif not all(search["converged"] and search["losses_agree"] for search in results.searches):
            flags.append("not-converged")
    if not THREATS[cell.threat.name].knows_all or cell.attack.unbounded is None:
        return flags
    doubts = _costly_doubts(robust, results, stochastic=cell.purifier.stochastic).items()
    return flags + [
        flag if raised else f"{_UNCHECKED}{flag}" for flag, raised in doubts if raised is not False
    ]


def _pipeline_doubts(results: CheckResults) -> dict[str, bool]:
    differs = {call: float((d > _SAME_OUTPUT).mean()) >= _HALF for call, d in results.differences.items()}
    later_calls = ("repeat_call", "with_gradients", "attack_call")
    return {
        "hidden-randomness": any(differs[call] for call in later_calls) or results.contradicted > 0,
        "batch-dependent": differs["batch_of_one"],
        "target-dependent": results.consistency["spread"] < _COLLAPSED,
        "probabilities-not-logits": bool(results.consistency["probabilities"]),
        "fd-mismatch": results.slope is not None and _misses_slope(**results.slope),
    }


def _misses_slope(has_slope: NDArray[np.bool_], cosine: NDArray[np.float32]) -> bool:
    """Whether at least half of the images have a slope, and gradients miss most of these slopes."""
    return bool(has_slope.mean() >= _HALF and (cosine[has_slope] < _ALONG_SLOPE).mean() > _HALF)


def _costly_doubts(
    robust: NDArray[np.bool_], results: CheckResults, *, stochastic: bool
) -> dict[str, bool | None]:
    """Whether each flag is raised; None if its check did not run."""
    doubts: dict[str, bool | None] = dict.fromkeys(("unbounded-fails", "noise-beats-attack"))
    if results.unbounded is not None:
        right = float((results.unbounded <= _HALF).mean())
        doubts["unbounded-fails"] = right > (_LUCK if stochastic else 0)  # a random one may be right by luck
    if results.noise is not None:
        n = min(len(robust), len(results.noise))
        doubts["noise-beats-attack"] = bool((robust[:n] & results.noise[:n]).any())
    return doubts
