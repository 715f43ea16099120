"""The worst case of each image on hand-made tables: which attacks, images and draws count in a ball."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmark.metrics import TOLERANCE
from benchmark.plan.cells import Cell
from benchmark.results.cell_outcomes import CellOutcomes
from benchmark.results.worst_case import OutcomeSet, worst_of
from tests.results.hand_made import CW, FGSM, PGD, made_random, only, outcomes_of, result

EPS = 0.3
LARGEST = float(np.float32(EPS + TOLERANCE))


def images(errors: Any) -> list[int]:
    """The images with an error."""
    return np.flatnonzero(np.asarray(errors)).tolist()


def outcomes(*results: Any, random: bool = False, threats: Sequence[str] = ()) -> list[CellOutcomes]:
    """Outcomes of attacks on six images, each with the arguments of `result`."""
    attacks = (PGD, FGSM, CW)[: len(results)]
    found: list[Cell] = []
    for number, spec in enumerate(attacks):
        threat = threats[number] if threats else "white-box"
        found += only(spec, threat=threat, n=6)
    cells = map(made_random, found) if random else found
    return outcomes_of((c, result(c, n=6, **kw)) for c, kw in zip(cells, results, strict=True))


def cases(found: list[CellOutcomes], own: int = 1) -> list[list[int]]:
    """The candidates for the worst case; the first outcomes are those of the row itself."""
    counted = OutcomeSet(found).counted(found[:own], "linf", EPS)
    return [images(case) for case in counted.worst_cases("linf", EPS)]


# --- a deterministic pipeline ------------------------------------------------------------------------


def test_an_image_is_wrong_if_one_attack_or_the_clean_image_is() -> None:
    found = outcomes({"wrong": [0, 1], "clean_wrong": [5]}, {"wrong": [1, 2], "clean_wrong": [5]})
    assert cases(found) == [[0, 1, 2, 5]]


def test_a_clean_error_counts_even_if_the_attack_undid_it() -> None:
    assert cases(outcomes({"wrong": [], "clean_wrong": [3]})) == [[3]]


def test_an_image_outside_of_the_ball_counts_as_its_clean_image() -> None:
    distances = [0.2, EPS, LARGEST, EPS + 1e-5, 0.4, 9.0]
    assert cases(outcomes({"wrong": range(6), "linf": distances})) == [[0, 1, 2]]
    assert cases(outcomes({"wrong": range(6), "clean_wrong": [5], "linf": distances})) == [[0, 1, 2, 5]]


def test_mean_errors_of_several_draws_keep_their_value() -> None:
    (found,) = outcomes({"wrong": [0]})
    found.wrong[:3] = 0.25, 0.5, 0.0
    found.clean_wrong[:3] = 0.5, 0.25, 0.0
    (case,) = OutcomeSet([found]).counted([found], "linf", EPS).worst_cases("linf", EPS)
    assert case.tolist() == [0.5, 0.5, 0, 0, 0, 0]


def test_only_images_that_met_every_attack_count() -> None:
    first, second = outcomes({"wrong": [0, 5]}, {"wrong": [1]})
    few = outcomes_of([(second.cell, result(second.cell, [1], n=3))])
    counted = OutcomeSet([first, *few]).counted([first], "linf", EPS)
    assert [case.tolist() for case in counted.worst_cases("linf", EPS)] == [[1, 1, 0]]


# --- which attacks count -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nearest", "counts"), [(0.2, True), (EPS, True), (LARGEST, True), (EPS + 1e-5, False), (0.4, False)]
)
def test_an_attack_counts_if_one_of_its_images_lies_in_the_ball(nearest: float, counts: bool) -> None:
    own, other = outcomes({"wrong": []}, {"wrong": [2], "linf": [9.0, 9.0, nearest, 9.0, 9.0, 9.0]})
    counted = OutcomeSet([own, other]).counted([own], "linf", EPS)
    assert list(counted.attacks) == (["pgd", "fgsm"] if counts else ["pgd"])
    assert counted.rows.tolist() == ([0, 1] if counts else [0])


def test_the_attacks_of_the_row_itself_count_in_any_case() -> None:
    own, other = outcomes({"wrong": [], "linf": 9.0}, {"wrong": [2]})
    counted = OutcomeSet([own, other]).counted([own], "linf", EPS)
    assert list(counted.attacks) == ["fgsm"]
    assert counted.rows.tolist() == [0, 1]


def test_each_norm_has_its_own_distances() -> None:
    (found,) = outcomes({"wrong": [0, 1, 2], "linf": 0.2})
    found.distances["l2"][:] = 2.0, 5.0, 2.0, 5.0, 5.0, 5.0
    everything = OutcomeSet([found])
    for norm, eps, expected in (("l2", 3.0, [0, 2]), ("linf", EPS, [0, 1, 2]), ("l2", 5.0, [0, 1, 2])):
        (case,) = everything.counted([found], norm, eps).worst_cases(norm, eps)
        assert images(case) == expected


# --- a random pipeline -------------------------------------------------------------------------------


def test_the_attack_with_the_largest_margin_counts_and_not_the_one_that_was_lucky() -> None:
    """The margins are those of the selection, and the errors those of other draws."""
    first = {"wrong": [0, 1], "margins": [3, 1, 1, 1, 1, 1], "clean_margins": -2.0}
    second = {"wrong": [1, 2], "margins": [2, 2, 0, 0, 0, 0], "clean_margins": -2.0}
    selected, of_threat, *single = cases(outcomes(first, second, random=True))
    assert selected == of_threat == [0, 1]
    assert single == [[0, 1], [1, 2], [], []]


def test_the_clean_image_counts_where_its_margin_is_larger() -> None:
    clean_image = {"clean_wrong": [2, 3], "clean_margins": [-2, 0, 0, -2, 0, -2]}
    found = clean_image | {"wrong": [0, 1], "margins": np.full(6, -1.0)}
    selected, _, attacked, clean = cases(outcomes(found, random=True))
    assert selected == [0, 2]
    assert attacked == [0, 1]
    assert clean == [2, 3]


def test_of_equal_margins_the_clean_image_and_the_first_attack_count() -> None:
    equal = {"margins": np.ones(6), "clean_margins": 1.0}
    first, second = equal | {"wrong": [0], "clean_wrong": [4]}, equal | {"wrong": [1], "clean_wrong": [5]}
    assert cases(outcomes(first, second, random=True))[0] == [4]
    below = {"margins": np.ones(6), "clean_margins": 0.0}
    assert cases(outcomes(below | {"wrong": [0]}, below | {"wrong": [1]}, random=True))[0] == [0]


def test_an_image_outside_of_the_ball_never_counts_for_a_random_pipeline() -> None:
    """Its margin is large, and it was misclassified on the draw that judges."""
    far = {"wrong": range(6), "margins": np.full(6, 9.0), "linf": [0.2, EPS, LARGEST, EPS + 1e-5, 0.4, 9.0]}
    selected, of_threat, attacked, clean = cases(outcomes(far | {"clean_wrong": [5]}, random=True))
    assert selected == of_threat == attacked == [0, 1, 2, 5]
    assert clean == [5]


def test_margins_that_are_not_numbers_are_never_selected() -> None:
    broken = {"wrong": [0, 1], "margins": [np.nan, 5, 5, 5, 5, 5], "clean_margins": np.nan}
    assert cases(outcomes(broken, random=True))[0] == [1]
    nothing = {"wrong": range(6), "margins": np.full(6, np.nan), "clean_margins": np.nan, "clean_wrong": [3]}
    assert cases(outcomes(nothing, random=True))[0] == []


def test_each_threat_selects_among_what_it_knows() -> None:
    """Luck of the draw must not make the attacker who knows more look weaker."""
    white = {"wrong": [0], "margins": np.full(6, 3.0)}
    black = {"wrong": [1, 2], "margins": np.full(6, 2.0)}
    query = {"wrong": [3], "margins": np.full(6, 1.0)}
    found = outcomes(white, black, query, random=True, threats=("white-box", "black-box", "query"))
    joint, of_white, of_black, of_query, *single = cases(found, own=3)
    assert joint == of_white == [0]
    assert of_black == [1, 2]
    assert of_query == [3]
    assert single == [[0], [1, 2], [3], [], [], []]


# --- the worst candidate -----------------------------------------------------------------------------


def test_the_worst_candidate_is_that_with_most_errors_on_the_counted_images() -> None:
    first, second = np.array([1.0, 0, 0, 0]), np.array([0.0, 1, 1, 1])
    assert worst_of([first, second], 4).tolist() == [0, 1, 1, 1]
    assert worst_of([first, second], 1).tolist() == [1]
    assert worst_of([first, second], 2).tolist() == [1, 0]  # the first of equals
    assert worst_of([first], 2).tolist() == [1, 0]


def test_an_image_is_misclassified_if_most_of_its_draws_are() -> None:
    (found,) = outcomes({"wrong": []})
    found.wrong[:4] = 0.0, 0.5, 0.51, 1.0
    assert images(found.misclassified) == [2, 3]


def test_a_failed_cell_has_no_images_and_a_skipped_one_no_outcomes() -> None:
    (cell,) = only(PGD, n=6)
    (failed,) = outcomes_of([(cell, result(cell, status="failed"))])
    assert not failed.ok
    assert len(failed.wrong) == len(failed.margin) == len(failed.misclassified) == 0
    assert outcomes_of([(cell, result(cell, status="skipped"))]) == []
