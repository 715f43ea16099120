"""Intervals and tests against published examples and SciPy's own implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmark.metrics.statistics import bootstrap_over_seeds, holm, mcnemar_less, wilson


@pytest.mark.parametrize(
    ("errors", "expected"), [(0, (0.0, 0.27753)), (5, (0.23659, 0.76341)), (10, (0.72247, 1.0))]
)
def test_wilson_interval_of_ten_images_is_the_textbook_one(
    errors: int, expected: tuple[float, float]
) -> None:
    assert wilson(errors, 10) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("errors", "n"), [(0, 1), (1, 1), (3, 60), (37, 100), (999, 1000), (0, 10_000)])
def test_wilson_interval_is_that_of_scipy(errors: int, n: int) -> None:
    expected = binomtest(errors, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(errors, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_without_images_every_rate_is_possible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def _discordant(only_ours: int, only_theirs: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors of two defenses that agree on 20 images (7 wrong, 13 correct), and differ on the others."""
    agreed = [True] * 7 + [False] * 13
    ours = agreed + [True] * only_ours + [False] * only_theirs
    theirs = agreed + [False] * only_ours + [True] * only_theirs
    return np.array(ours), np.array(theirs)


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(0, 1), (0, 8), (2, 9), (9, 2), (5, 5), (40, 70)])
def test_mcnemar_is_the_one_sided_binomial_test_of_the_differing_images(
    only_ours: int, only_theirs: int
) -> None:
    expected = binomtest(only_ours, only_ours + only_theirs, 0.5, alternative="less").pvalue
    assert mcnemar_less(*_discordant(only_ours, only_theirs)) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_favours_only_the_defense_that_errs_less() -> None:
    ours, theirs = _discordant(1, 12)
    assert mcnemar_less(ours, theirs) < 0.01
    assert mcnemar_less(theirs, ours) > 0.99


def test_mcnemar_of_equal_errors_shows_nothing() -> None:
    assert mcnemar_less(*_discordant(0, 0)) == 1.0


def test_holm_stops_at_the_first_hypothesis_that_is_not_rejected() -> None:
    """0.04 is below 0.05, its own threshold, but 0.03 before it is above 0.05 / 2."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]


def test_holm_rejects_more_than_bonferroni_and_less_than_no_correction() -> None:
    assert holm([0.2, 0.02, 0.01]) == [False, True, True]  # Bonferroni: 0.02 > 0.05 / 3
    assert holm([0.04, 0.03]) == [False, False]


def test_holm_rejects_nothing_after_a_smallest_value_above_its_threshold() -> None:
    assert holm([0.03, 0.02, 0.9]) == [False, False, False]


def test_holm_keeps_the_level_that_it_is_given() -> None:
    p_values = [0.004, 0.03]
    assert holm(p_values, level=0.01) == [True, False]
    assert holm(p_values, level=0.05) == [True, True]
    assert holm([]) == []


def test_bootstrap_of_one_seed_is_about_the_interval_of_a_rate() -> None:
    errors = np.zeros((1, 400), dtype=bool)
    errors[0, :100] = True
    low, high = bootstrap_over_seeds(errors)
    assert low < 0.25 < high
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.01)


def test_bootstrap_of_seeds_that_disagree_on_everything_spans_all_rates() -> None:
    """Two of four seeds err on every image, the others on none: 1 of 16 resamples has one kind only."""
    errors = np.repeat([[True], [True], [False], [False]], 500, axis=1)
    assert bootstrap_over_seeds(errors) == (0.0, 1.0)


def test_bootstrap_widens_with_seeds_that_disagree() -> None:
    images = 300
    agreeing = np.tile(np.arange(images) < 120, (4, 1))
    disagreeing = np.stack([np.arange(images) < errors for errors in (30, 90, 150, 210)])
    assert agreeing.mean() == disagreeing.mean()
    narrow, wide = bootstrap_over_seeds(agreeing), bootstrap_over_seeds(disagreeing)
    assert narrow[0] < agreeing.mean() < narrow[1]
    assert wide[0] < disagreeing.mean() < wide[1]
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_bootstrap_gives_the_same_interval_each_time() -> None:
    errors = np.random.default_rng(1).random((3, 50)) < 0.3
    assert bootstrap_over_seeds(errors) == bootstrap_over_seeds(errors)
