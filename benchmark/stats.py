"""Intervals and tests for error rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

_Z95 = 1.959963984540054
_BOOTSTRAP_DRAWS = 2000

_BETTER, _WORSE = 0.05, 0.01
"""Levels of the tests for guessing."""

_OTHERS = 6
"""Images of other classes from which on one answer for all of them is a guess."""


def wilson(errors: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate of `errors` among `n` images (Wilson 1927)."""
    if n == 0:
        return (0.0, 1.0)
    rate, z2 = errors / n, _Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (max(0.0, centre - half), min(1.0, centre + half))


def mcnemar_less(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """One-sided exact McNemar test: p-value for "we err less often than they" on the same images."""
    only_ours = int((ours & ~theirs).sum())
    only_theirs = int((~ours & theirs).sum())
    if only_ours + only_theirs == 0:
        return 1.0
    return float(bdtr(only_ours, only_ours + only_theirs, 0.5))


def at_chance(predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], classes: int) -> bool:
    """Whether a classifier shows nothing beyond guessing, by exact one-sided binomial tests.

    Both have to hold: it is not better than guessing among the classes (p ≥ 0.05), and worse than half-way
    between guessing and no error (p < 0.01), so that a few images alone raise nothing. A classifier that
    names one class for every image guesses too, if enough images are of another class.
    """
    n, right = len(labels), int((predicted == labels).sum())
    if n == 0 or classes < 2:
        return False

    def at_most(count: int, chance: float) -> float:
        return float(bdtr(count, n, chance)) if count >= 0 else 0.0

    guess = 1 / classes
    if 1 - at_most(right - 1, guess) >= _BETTER and at_most(right, (1 + guess) / 2) < _WORSE:
        return True
    return len(np.unique(predicted)) == 1 and n - right >= _OTHERS


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses Holm's step-down procedure (1979) rejects at the family-wise `level`."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def bootstrap_over_seeds(errors: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """95 % interval of the mean error by hierarchical bootstrap: seeds first, then images.

    Args:
        errors: Shape (seeds, images): how wrong each trained instance is about each image.
    """
    random = np.random.default_rng(0)
    seeds, images = errors.shape
    means = [
        errors[random.integers(seeds, size=seeds)][:, random.integers(images, size=images)].mean()
        for _ in range(_BOOTSTRAP_DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return (float(low), float(high))
