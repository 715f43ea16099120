"""The defense that a table marks as the best: its error is significantly lower than every other one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmark.results.significance import ImageErrors, significantly_best

N = 100


def case(defense: str, errors: range, seed: int = 0, **changed: Any) -> dict[str, Any]:
    row = {"column": defense, "status": "ok", "flags": "", "error": len(errors) / N}
    return (
        row
        | {"key": f"{defense} {seed}", "target_seed": seed, "attack_seed": None, "errors": errors}
        | changed
    )


def best(*cases: dict[str, Any], baseline: int = 60, unknown: str = "") -> str | None:
    def mask(images: range) -> Any:
        return np.isin(np.arange(N), list(images))

    errors = {c["key"]: ImageErrors(mask(c["errors"]), mask(range(baseline))) for c in cases}
    return significantly_best(cases, {key: found for key, found in errors.items() if key != unknown})


@pytest.mark.parametrize(
    ("fewer", "found"),
    [(4, None), (5, "a"), (10, "a")],  # 0.5⁵ is below 0.05, and 0.5⁴ is not
)
def test_the_best_has_significantly_fewer_errors_than_the_other(fewer: int, found: str | None) -> None:
    cases = [case("a", range(30 - fewer)), case("b", range(30))]
    assert best(*cases) == best(*reversed(cases)) == found


def test_two_comparisons_at_the_same_level_are_corrected_for() -> None:
    """0.5⁵ is above 0.05 / 2, and 0.5⁶ is below."""
    for fewer, found in ((5, None), (6, "a")):
        assert best(case("a", range(30 - fewer)), case("b", range(30)), baseline=30) == found


def test_it_has_to_beat_every_other_one_and_the_bare_target() -> None:
    three = [case("a", range(10)), case("b", range(30)), case("c", range(13))]
    assert best(*three) is None
    assert best(*three[:2]) == "a"
    assert best(*three[:2], baseline=13) is None
    assert best(*three[:2], baseline=60) == "a"
    assert best(case("a", range(10))) == "a"
    assert best(case("a", range(60))) is None


def test_errors_in_doubt_are_never_the_best_but_have_to_be_beaten() -> None:
    doubted = case("a", range(10), flags="zero-gradient")
    assert best(doubted, case("b", range(30))) is None
    assert best(case("a", range(10)), case("b", range(30), flags="zero-gradient")) == "a"
    assert best(case("a", range(10), flags="weak-backend"), case("b", range(30))) == "a"
    assert best(doubted, case("b", range(30), flags="not-moved")) is None
    equal = [case("a", range(10), flags="zero-gradient"), case("b", range(20, 30))]
    assert best(*equal) is None


def test_cells_without_a_result_do_not_count() -> None:
    assert best(case("a", range(10)), case("b", range(5), status="failed")) == "a"


def test_the_images_of_every_cell_have_to_be_known() -> None:
    cases = [case("a", range(10)), case("b", range(30))]
    assert best(*cases, unknown="b 0") is None


def test_the_least_favourable_pair_of_seeds_counts() -> None:
    """Only pairs that share the seeds of target and attack are compared."""
    first = [case("a", range(10), 0), case("a", range(10), 1)]
    assert best(*first, case("b", range(30), 0), case("b", range(30), 1)) == "a"
    assert best(*first, case("b", range(30), 0), case("b", range(13), 1)) is None
    assert best(*first, case("b", range(13), 0), case("b", range(40), 1)) is None
    assert best(*first, case("b", range(30), 5)) is None  # no pair at all
    missing = [case("a", range(10), 0, target_seed=np.nan), case("b", range(30), 0, target_seed=np.nan)]
    assert best(*missing) == "a"
    assert best(missing[0], case("b", range(30), 0)) is None
    assert best(case("a", range(10), attack_seed=1), case("b", range(30), attack_seed=2)) is None


def test_the_mean_over_seeds_decides_which_one_may_be_the_best() -> None:
    lucky = [case("a", range(2), 0), case("a", range(60), 1)]
    steady = [case("b", range(20), 0), case("b", range(20), 1)]
    assert best(*lucky, *steady, baseline=90) is None
    assert best(*lucky, *(case("b", range(10, 20), seed) for seed in (0, 1)), baseline=90) is None


def test_a_lower_mean_in_doubt_is_not_hidden_by_a_pair_that_is_worse() -> None:
    doubted = [case("b", range(35), 0, flags="not-moved"), case("b", range(0), 1, flags="not-moved")]
    assert best(case("a", range(20), 0), *doubted) is None
    assert best(case("a", range(17), 0), *doubted) == "a"
