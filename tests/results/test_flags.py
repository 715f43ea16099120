"""Each flag of a cell at its threshold, and a little to each side of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmark.plan.cells import Cell, ThreatSpec
from benchmark.plan.specs import ConfigSpec
from benchmark.plan.threats import THREATS
from benchmark.results.flags import (
    FLAGS,
    CheckResults,
    any_doubt,
    cell_flags,
    check_flags,
    gradient_flags,
    is_doubt,
    target_flags,
)
from tests.results.hand_made import CW, PGD, attack, made_random, only, with_defense

FOLLOWS = replace(PGD, scalable=True, takes_start=True, unbounded=(ConfigSpec({}, {}), 1.0))
"""An attack to which every check applies."""

CONSISTENT: dict[str, Any] = {
    "differences": {
        name: np.zeros(4) for name in ("batch_of_one", "repeat_call", "with_gradients", "attack_call")
    },
    "consistency": {"spread": 1.0, "probabilities": False},
    "contradicted": 0,
    "searches": [],
    "slope": {"has_slope": np.ones(4, dtype=bool), "cosine": np.ones(4)},
    "unbounded": np.ones(10),
    "noise": np.zeros(10, dtype=bool),
}


def cell(of: Any = FOLLOWS, threat: str = "white-box", **parameters: Any) -> Cell:
    (found,) = only(of, threat=threat)
    return replace(found, threat=ThreatSpec(threat, THREATS[threat].config_type(**parameters)))


def checked(
    changed: dict[str, Any] | None = None,
    *,
    of: Cell | None = None,
    robust: Any = None,
    distance: Any = 0.3,
) -> set[str]:
    """The flags of the checks; by default the pipeline is consistent and no image misclassified."""
    mask = np.ones(10, dtype=bool) if robust is None else np.asarray(robust, dtype=bool)
    results = CheckResults(**(CONSISTENT | (changed or {})))
    distances = np.broadcast_to(np.asarray(distance, dtype=float), mask.shape)
    return set(check_flags(of or cell(), robust=mask, distance=distances, results=results))


FAST = {"unchecked:not-converged"}


def test_a_consistent_pipeline_has_no_flag_but_that_of_the_preset() -> None:
    assert checked() == FAST


# --- the settings of a cell ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("added", "trainable", "raised"),
    [(0.0625, True, False), (0.0626, True, True), (0.0624, True, False), (0.5, False, False)],
)
def test_a_trained_defense_may_add_as_much_clean_error_as_its_gate(
    added: float, trainable: bool, raised: bool
) -> None:
    found = with_defense(cell(), trainable=trainable, gate=0.0625)
    for target in (0.0, 0.25):
        flags = cell_flags(found, clean_error=target + added, clean_error_target=target)
        assert ("purifier-not-trained" in flags) == raised


@pytest.mark.parametrize(
    ("of", "eot", "random", "raised"),
    [
        (FOLLOWS, 9, True, True),
        (FOLLOWS, 10, True, False),
        (FOLLOWS, 11, True, False),
        (FOLLOWS, 1, False, False),
        (CW, 10, True, True),  # stops at its first success
        (CW, 10, False, False),
        (replace(CW, uses="labels"), 10, True, False),
    ],
)
def test_fewer_than_ten_draws_are_few(of: Any, eot: int, random: bool, raised: bool) -> None:
    found = cell(of, eot=eot)
    found = made_random(found) if random else found
    assert ("few-draws" in cell_flags(found, clean_error=0.0, clean_error_target=0.0)) == raised
    unaware = cell(of, "black-box")
    unaware = made_random(unaware) if random else unaware
    assert "few-draws" not in cell_flags(unaware, clean_error=0.0, clean_error_target=0.0)


def test_notes_about_the_settings() -> None:
    def flags(found: Cell) -> list[str]:
        return cell_flags(found, clean_error=0.0, clean_error_target=0.0)

    cheaper = with_defense(cell(), in_attack=ConfigSpec({}, {}))
    assert flags(cell()) == []
    assert flags(cheaper) == ["cheap-surface"]
    assert flags(with_defense(cell(threat="black-box"), in_attack=ConfigSpec({}, {}))) == []
    assert flags(with_defense(cell(), inner_optimisation=True)) == ["inner-optimisation"]
    assert flags(cell(replace(FOLLOWS, weak_backend=True))) == ["weak-backend"]
    assert flags(cell(replace(FOLLOWS, takes_start=False))) == ["unchecked:from-target-only"]
    assert flags(cell(replace(FOLLOWS, takes_start=False), "black-box")) == []


# --- the target --------------------------------------------------------------------------------------

LABELS = np.arange(100) % 10
GUESSES = np.roll(LABELS, 1)
EXCHANGED = np.array([1, 0, *range(2, 10)])[LABELS]


def of_target(*predictions: Any, factors: Any = (1.0,), uses: str = "gradients") -> list[str]:
    (found,) = only(replace(PGD, uses=uses), images=[str(number) for number in range(10)])
    return target_flags(found, predictions=predictions, labels=LABELS, score_factors=factors)


def test_one_target_at_chance_or_with_exchanged_classes_is_enough() -> None:
    assert of_target(LABELS) == []
    assert of_target(LABELS, EXCHANGED) == ["class-order"]
    assert of_target(LABELS, GUESSES) == ["target-at-chance", "class-order"]


@pytest.mark.parametrize(
    ("factors", "uses", "raised"),
    [
        ((1.0, 1.0), "gradients", False),
        ((1.0, 2.0), "gradients", True),
        ((1.0, 0.5), "scores", True),
        ((2.0,), "labels", False),
    ],
)
def test_rescaled_scores_are_noted(factors: Any, uses: str, raised: bool) -> None:
    assert ("scaled-scores" in of_target(LABELS, factors=factors, uses=uses)) == raised


# --- gradients ---------------------------------------------------------------------------------------

NO, YES = np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
FIRST, FIRST_TWO = np.array([True, False, False, False]), np.array([True, True, False, False])
MASKED = {
    "robust": YES,
    "baseline_misclassified": YES,
    "target_without_gradient": NO,
    "attacked_without_gradient": YES,
    "attacked_responds": YES,
    "nonfinite_gradients": False,
}


@pytest.mark.parametrize(
    ("changed", "raised"),
    [
        ({}, True),
        ({"robust": NO}, False),
        ({"robust": FIRST}, True),
        ({"baseline_misclassified": NO}, False),
        ({"baseline_misclassified": FIRST, "attacked_without_gradient": ~FIRST}, False),
        ({"attacked_without_gradient": NO}, False),
        ({"attacked_without_gradient": FIRST, "robust": ~FIRST}, False),
        ({"attacked_responds": NO}, False),  # between the steps of a quantiser
        ({"attacked_responds": FIRST}, False),  # a quarter of the suspects
        ({"attacked_responds": FIRST_TWO}, True),  # half of them
        ({"attacked_responds": FIRST, "robust": FIRST_TWO}, True),
        ({"attacked_responds": ~FIRST, "robust": FIRST}, False),
        ({"attacked_without_gradient": NO, "target_without_gradient": FIRST}, True),
        ({"attacked_without_gradient": NO, "target_without_gradient": FIRST, "robust": ~FIRST}, False),
        ({"attacked_without_gradient": NO, "nonfinite_gradients": True}, True),
        ({"robust": NO, "nonfinite_gradients": True}, False),
    ],
)
def test_a_zero_gradient_counts_where_an_image_is_robust_only_behind_the_defense(
    changed: dict[str, Any], raised: bool
) -> None:
    assert gradient_flags(**(MASKED | changed)) == (["zero-gradient"] if raised else [])  # type: ignore[arg-type]


# --- the checks of a cell ----------------------------------------------------------------------------


def test_without_a_robust_image_nothing_can_be_withheld() -> None:
    broken = {"contradicted": 5, "consistency": {"spread": 0.0, "probabilities": True}}
    assert checked(broken, robust=np.zeros(10), distance=0.0) == set()
    assert "hidden-randomness" in checked(broken, robust=np.arange(10) == 3)


@pytest.mark.parametrize(
    ("of", "distance", "raised"),
    [
        (replace(FOLLOWS, eps=0.25), 0.125, False),
        (replace(FOLLOWS, eps=0.25), 0.1249, True),
        (replace(FOLLOWS, eps=0.25), 0.1251, False),
        (FOLLOWS, [0.3, *[0.0] * 9], True),
        (attack("pgd", 0.3, "l2", mandatory=True), 0.0, False),  # an L2 attack may leave most pixels alone
        (attack("deepfool", None), 0.0, False),
        (replace(FOLLOWS, needs_latents=True), 0.0, False),
    ],
)
def test_robust_images_have_to_be_moved_by_half_of_eps(of: Any, distance: Any, raised: bool) -> None:
    assert ("not-moved" in checked(of=cell(of, "black-box"), distance=distance)) == raised


def test_images_that_are_misclassified_need_not_be_moved() -> None:
    robust = np.arange(10) < 5
    assert "not-moved" not in checked(robust=robust, distance=np.where(robust, 0.2, 0.0))
    assert "not-moved" in checked(robust=robust, distance=np.where(robust, 0.1, 0.3))


@pytest.mark.parametrize(
    ("call", "flag"),
    [
        ("repeat_call", "hidden-randomness"),
        ("with_gradients", "hidden-randomness"),
        ("attack_call", "hidden-randomness"),
        ("batch_of_one", "batch-dependent"),
    ],
)
@pytest.mark.parametrize(
    ("differing", "by", "raised"), [(2, 1.1e-3, True), (1, 1.0, False), (4, 0.9e-3, False)]
)
def test_half_of_the_outputs_have_to_differ_by_a_thousandth(
    call: str, flag: str, differing: int, by: float, raised: bool
) -> None:
    differences = CONSISTENT["differences"] | {call: np.array([by] * differing + [0.0] * (4 - differing))}
    assert checked({"differences": differences}) - FAST == ({flag} if raised else set())


def test_one_contradicted_image_is_enough() -> None:
    assert checked({"contradicted": 1}) - FAST == {"hidden-randomness"}


@pytest.mark.parametrize(("spread", "raised"), [(0.0099, True), (0.01, False), (0.0101, False)])
def test_purified_images_of_a_class_have_to_differ(spread: float, raised: bool) -> None:
    found = checked({"consistency": {"spread": spread, "probabilities": False}}) - FAST
    assert found == ({"target-dependent"} if raised else set())


def test_probabilities_are_doubted() -> None:
    found = checked({"consistency": {"spread": 1.0, "probabilities": True}}) - FAST
    assert found == {"probabilities-not-logits"}


@pytest.mark.parametrize(
    ("slopes", "cosines", "raised"),
    [
        (4, [0.59, 0.59, 0.59, 0.9], True),
        (4, [0.59, 0.59, 0.9, 0.9], False),  # more than half have to be missed
        (4, [0.6, 0.6, 0.6, 0.6], False),
        (2, [0.1, 0.1, 0.9, 0.9], True),
        (2, [0.9, 0.9, 0.1, 0.1], False),  # no slope there
        (1, [0.1, 0.1, 0.1, 0.1], False),  # fewer than half have one
        (0, [0.1, 0.1, 0.1, 0.1], False),
    ],
)
def test_a_gradient_has_to_point_along_half_of_the_slopes(
    slopes: int, cosines: list[float], raised: bool
) -> None:
    slope = {"has_slope": np.arange(4) < slopes, "cosine": np.array(cosines)}
    assert checked({"slope": slope}) - FAST == ({"fd-mismatch"} if raised else set())
    assert checked({"slope": None}) - FAST == set()


@pytest.mark.parametrize(
    ("preset", "searches", "flag"),
    [
        ("fast", [], "unchecked:not-converged"),
        ("fast", [{"converged": False, "losses_agree": False}], "unchecked:not-converged"),
        ("strong", [], "unchecked:not-converged"),
        ("strong", [{"converged": True, "losses_agree": True}], None),
        ("strong", [{"converged": False, "losses_agree": True}], "not-converged"),
        ("strong", [{"converged": True, "losses_agree": False}], "not-converged"),
        ("strong", [{"converged": True, "losses_agree": True}, {"converged": False, "losses_agree": True}],
         "not-converged"),
    ],
)  # fmt: skip
def test_every_search_has_to_converge(preset: str, searches: list[Any], flag: str | None) -> None:
    found = checked({"searches": searches}, of=cell(preset=preset))
    assert found == (set() if flag is None else {flag})
    assert checked({"searches": searches}, of=cell(replace(FOLLOWS, scalable=False), preset=preset)) == set()
    assert checked({"searches": searches}, of=cell(threat="black-box")) == set()


@pytest.mark.parametrize(
    ("errors", "random", "raised"),
    [
        ([1.0] * 20, False, False),
        ([0.51] * 20, False, False),
        ([0.5] + [1.0] * 19, False, True),
        ([0.0] + [1.0] * 19, False, True),
        ([0.0] + [1.0] * 19, True, False),  # one in twenty may be right by luck
        ([0.0] * 2 + [1.0] * 19, True, True),
    ],
)
def test_no_image_may_resist_in_a_ball_that_holds_every_image(
    errors: list[float], random: bool, raised: bool
) -> None:
    of = made_random(cell()) if random else cell()
    found = checked({"unbounded": np.array(errors)}, of=of)
    assert found - FAST == ({"unbounded-fails"} if raised else set())


@pytest.mark.parametrize(
    ("robust", "noise", "raised"),
    [
        ([1, 1, 0, 0], [0, 0, 1, 1], False),
        ([1, 1, 0, 0], [0, 1, 0, 0], True),
        ([1, 1, 0, 1], [0, 0], False),  # the search ran on the first images only
        ([1, 0], [0, 0, 1, 1], False),
    ],
)
def test_random_points_may_fool_no_image_that_resisted(
    robust: list[int], noise: list[int], raised: bool
) -> None:
    found = checked({"noise": np.array(noise, dtype=bool)}, robust=robust)
    assert found - FAST == ({"noise-beats-attack"} if raised else set())


def test_a_costly_check_that_did_not_run_is_named() -> None:
    neither = {"unbounded": None, "noise": None}
    names = {"unchecked:unbounded-fails", "unchecked:noise-beats-attack"}
    assert checked(neither) - FAST == names
    assert checked({"noise": None}) - FAST == {"unchecked:noise-beats-attack"}
    assert checked(neither, of=cell(threat="black-box")) == set()
    assert checked(neither, of=cell(replace(FOLLOWS, unbounded=None))) - FAST == set()


def test_only_doubts_take_a_rank() -> None:
    notes = {"inner-optimisation", "scaled-scores", "weak-backend", "below-control"}
    assert {name for name in FLAGS if not is_doubt(name)} == notes
    assert {name for name, flag in FLAGS.items() if flag.of_target} == {
        "target-at-chance",
        "class-order",
        "scaled-scores",
    }
    assert any_doubt("weak-backend zero-gradient")
    assert not any_doubt("weak-backend unchecked:not-converged a-flag-of-a-later-version")
    assert not any_doubt("")
