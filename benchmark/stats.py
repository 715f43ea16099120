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

_BETTER, _WORSE, _FAR_WORSE = 0.05, 0.01, 0.001
"""Levels of the tests for guessing."""

_OTHERS = 6
"""Images of other classes from which on one answer for all of them is a guess."""

_SHUFFLES = 999
"""Shuffles of the answers, enough for a test at 5 %."""

_LINK, _PATH = 0.05, 0.01
"""Levels of the tests for exchanged classes: of each of two neighbouring classes, and of both together."""


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
    """Whether a classifier shows nothing beyond guessing, by one-sided tests.

    One of these has to hold. Each asks for two things, so that a few images alone raise nothing:

    1. It is not better than a guess among the classes (p ≥ 0.05), and worse than half-way between such a
       guess and no error (p < 0.01).
    2. It is not better than its own answers shuffled among the images (p ≥ 0.05), and far worse than half-way
       (p < 0.001). The mean over the shuffles is the chance term of Cohen's kappa (1960), so that guesses by
       the frequencies of the classes count as guesses; fewer images than classes do not show these. If it
       gives one answer for most images, the images of other classes alone may be far worse: a frequent class
       hides them.
    3. It gives one answer for all images, and enough of them are of another class.

    Args:
        predicted: The answers, shape (images,).
        labels: The true classes, shape (images,).
        classes: How many classes the data set has.
    """
    n, right = len(labels), predicted == labels
    if n == 0 or classes < 2:
        return False
    answers, counts = np.unique(predicted, return_counts=True)
    others = labels != answers[counts.argmax()]
    if len(answers) == 1 and others.sum() >= _OTHERS:
        return True
    guess = 1 / classes
    half_way = (1 + guess) / 2
    low = _at_most(int(right.sum()), n, half_way)
    if low < _WORSE and 1 - _at_most(int(right.sum()) - 1, n, guess) >= _BETTER:
        return True
    if 2 * counts.max() > n:
        low = min(low, _at_most(int(right[others].sum()), int(others.sum()), half_way))
    return n >= classes and low < _FAR_WORSE and _p_of_shuffles(predicted, labels) >= _BETTER


def _at_most(count: int, n: int, chance: float) -> float:
    """The probability of at most `count` successes among `n`."""
    return float(bdtr(count, n, chance)) if count >= 0 else 0.0


def _p_of_shuffles(predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> float:
    """How often the answers, shuffled among the images, are right as often or more.

    It is 0 if all images are of one class: every shuffle is right as often then, so that none shows anything.
    """
    if len(np.unique(labels)) == 1:
        return 0.0
    random, right = np.random.default_rng(0), int((predicted == labels).sum())
    shuffled = (int((random.permutation(predicted) == labels).sum()) for _ in range(_SHUFFLES))
    return (1 + sum(count >= right for count in shuffled)) / (1 + _SHUFFLES)


def exchanged_classes(
    predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]
) -> dict[int, int]:
    """Classes that are taken for others as if the classes were in another order.

    Images of X are mostly taken for Y although images of Y are mostly taken for something else again. A weak
    classifier that merges X and Y still names Y for the images of Y. "Mostly" means more often than the
    right class: by an exact sign test for X and for Y (p < 0.05 each), and for both together (p < 0.01 with
    a Bonferroni correction over the classes).

    Args:
        predicted: The answers, shape (images,).
        labels: The true classes, shape (images,).

    Returns:
        By class X the class Y; empty if nothing is wrong.
    """
    shown = np.unique(labels).tolist()
    links: dict[int, tuple[int, int, int]] = {}
    for true in shown:
        answers, counts = np.unique(predicted[labels == true], return_counts=True)
        wrong = answers != true
        right = int(counts[~wrong].sum())
        if wrong.any():
            most = int(counts[wrong].max())
            if _sign_test(most, right) < _LINK:
                links[true] = (int(answers[wrong][counts[wrong].argmax()]), most, right)
    found: dict[int, int] = {}
    for true, (taken, most, right) in links.items():
        if taken in links:
            onwards, next_most, next_right = links[taken]
            if _sign_test(most + next_most, right + next_right) * len(shown) < _PATH:
                found |= {true: taken, taken: onwards}
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
