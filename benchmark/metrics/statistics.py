"""Confidence intervals and significance tests for error rates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

_Z95 = 1.959963984540054
_BOOTSTRAP_DRAWS = 2000
_PERMUTATIONS = 999  # enough for a test at 5 %

_BETTER, _WORSE, _MUCH_WORSE = 0.05, 0.01, 0.001
"""Significance levels of the tests in `at_chance`."""

_MIN_OTHERS = 6
"""A constant prediction is a guess if at least this many images are of other classes."""

_SINGLE_LEVEL, _JOINT_LEVEL = 0.05, 0.01
"""Significance levels in `exchanged_classes`: for each of two classes, and for both together."""


def wilson(errors: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of the rate `errors` / `n` (Wilson 1927)."""
    if n == 0:
        return (0.0, 1.0)
    rate, z2 = errors / n, _Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (max(0.0, centre - half), min(1.0, centre + half))


def mcnemar_less(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """One-sided exact McNemar test: p-value for "ours errs less often than theirs" on the same images."""
    return _sign_test(int((~ours & theirs).sum()), int((ours & ~theirs).sum()))


def at_chance(predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], classes: int) -> bool:
    """Whether a classifier is no better than chance, by one-sided tests.

    It is if one of the following holds. The first two have two conditions each, so that a few images are
    not enough. "Half-way" is the accuracy in the middle between a uniform guess and no error.

    1. It is not better than a uniform guess among the classes (p ≥ 0.05), and worse than half-way
       (p < 0.01).
    2. It is not better than its own predictions permuted among the images (p ≥ 0.05), and much worse than
       half-way (p < 0.001). The mean over the permutations is the chance term of Cohen's kappa (1960), so
       guesses with the frequencies of the classes count as guesses. This needs at least as many images as
       classes. If most images get the same prediction, it is enough that the images of the other classes
       are much worse than half-way: a frequent class would hide them.
    3. All images get the same prediction, and at least 6 of them are of another class.

    Predicted and true classes have the shape (images,).
    """
    n, correct = len(labels), predicted == labels
    if n == 0 or classes < 2:
        return False
    named, counts = np.unique(predicted, return_counts=True)
    others = labels != named[counts.argmax()]
    if len(named) == 1 and others.sum() >= _MIN_OTHERS:
        return True
    guess = 1 / classes
    half_way = (1 + guess) / 2
    p_worse = _at_most(int(correct.sum()), n, half_way)
    if p_worse < _WORSE and 1 - _at_most(int(correct.sum()) - 1, n, guess) >= _BETTER:
        return True
    if 2 * counts.max() > n:
        p_worse = min(p_worse, _at_most(int(correct[others].sum()), int(others.sum()), half_way))
    return n >= classes and p_worse < _MUCH_WORSE and _permutation_test(predicted, labels) >= _BETTER


def _at_most(count: int, n: int, chance: float) -> float:
    """Probability of at most `count` successes in `n` trials."""
    return float(bdtr(count, n, chance)) if count >= 0 else 0.0


def _permutation_test(predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> float:
    """p-value for "the predictions are correct more often than permutations of them".

    It is 0 if all images are of one class: all permutations are then equally often correct and show nothing.
    """
    if len(np.unique(labels)) == 1:
        return 0.0
    random, correct = np.random.default_rng(0), int((predicted == labels).sum())
    permuted = (int((random.permutation(predicted) == labels).sum()) for _ in range(_PERMUTATIONS))
    return (1 + sum(count >= correct for count in permuted)) / (1 + _PERMUTATIONS)


def exchanged_classes(
    predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]
) -> dict[int, int]:
    """Classes that are predicted as other classes, as if the labels were in another order.

    Class X is reported if its images are mostly predicted as Y, and the images of Y mostly as a class other
    than Y. (A weak classifier that merges X and Y still predicts Y for the images of Y.) "Mostly" means more
    often than the correct class, by an exact sign test for X and for Y (p < 0.05 each) and for both together
    (p < 0.01 with a Bonferroni correction over the classes).

    Predicted and true classes have the shape (images,). Returns for each such class X the class Y.
    """
    counts = {true: Counter(predicted[labels == true].tolist()) for true in np.unique(labels).tolist()}
    confused: dict[int, int] = {}
    for true, count in counts.items():
        other = max((name for name in count if name != true), key=lambda n: (count[n], -n), default=None)
        if other is not None and _sign_test(count[other], count[true]) < _SINGLE_LEVEL:
            confused[true] = other
    found: dict[int, int] = {}
    for first, second in confused.items():
        if second in confused:
            third = confused[second]
            wrong = counts[first][second] + counts[second][third]
            correct = counts[first][first] + counts[second][second]
            if _sign_test(wrong, correct) * len(counts) < _JOINT_LEVEL:
                found |= {first: second, second: third}
    return dict(sorted(found.items()))


def _sign_test(more: int, fewer: int) -> float:
    """One-sided exact sign test: p-value for "the first happens more often than the second"."""
    return float(bdtr(fewer, more + fewer, 0.5))


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

    `errors` has the error of each trained instance on each image, shape (seeds, images).
    """
    random = np.random.default_rng(0)
    seeds, images = errors.shape
    means = [
        errors[random.integers(seeds, size=seeds)][:, random.integers(images, size=images)].mean()
        for _ in range(_BOOTSTRAP_DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return (float(low), float(high))
