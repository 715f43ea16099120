"""Attacks of one pipeline compared with one another: each flag with one image too few, and just enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmark.plan.cells import Cell
from benchmark.plan.specs import TargetSpec
from benchmark.plan.tasks import TrainTarget
from benchmark.results.cross_checks import add_flags
from benchmark.results.records import Result
from tests.results.hand_made import PGD, attack, cells, made_random, only, outcomes_of, result

MANY = replace(PGD, scalable=True)
ONE_STEP = attack("fgsm", single_step=True)
NOISE = attack("uniform-noise", uses="nothing")
ENOUGH = 7
"""Images that one attack fools and the other does not: 0.5⁷ is below 0.01, and 0.5⁶ is not."""


def flags(cases: Iterable[tuple[Cell, Result]]) -> list[set[str]]:
    """The flags that each cell gets."""
    outcomes = outcomes_of(cases)
    add_flags(outcomes)
    return [set((o.record["flags"] or "").split()) for o in outcomes]


def judged(found: Sequence[Cell], *wrong: int, first: int = 0) -> list[tuple[Cell, Result]]:
    """Each cell with the number of images that its attack fools, beginning at `first`."""
    return [(c, result(c, range(first, first + count))) for c, count in zip(found, wrong, strict=True)]


@pytest.mark.parametrize(("weak", "flag"), [(ONE_STEP, "single-beats-multi"), (NOISE, "noise-beats-attack")])
@pytest.mark.parametrize(
    ("strong", "others", "raised"),
    [(3, 3 + ENOUGH, True), (3, 3 + ENOUGH - 1, False), (3, 3, False), (3 + ENOUGH, 3, False)],
)
def test_many_steps_have_to_find_as_much_as_one_step_or_noise(
    weak: Any, flag: str, strong: int, others: int, raised: bool
) -> None:
    found = only(MANY, weak, threat="black-box")
    assert flags(judged(found, strong, others)) == [{flag} if raised else set(), set()]


@pytest.mark.parametrize(
    "changes",
    [{"scalable": False}, {"uses": "scores"}, {"targeted": True}, {"needs_latents": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_an_attack_that_need_not_beat_one_step_is_not_compared(changes: dict[str, Any]) -> None:
    assert flags(judged(only(replace(MANY, **changes), ONE_STEP), 0, ENOUGH)) == [set(), set()]


def test_attacks_are_compared_within_one_ball_and_one_attacker() -> None:
    other_ball = replace(ONE_STEP, eps=0.1)
    assert flags(judged(only(MANY, other_ball, threat="black-box"), 0, ENOUGH)) == [set(), set()]
    strong, weak = only(MANY), only(ONE_STEP, threat="gray-box")
    assert flags(judged([*strong, *weak], 0, ENOUGH)) == [set(), set()]


def other_target(cell: Cell) -> Cell:
    """The cell with images that were made on another target."""
    return replace(cell, craft_on=TrainTarget(cell.dataset, TargetSpec("other", {}, {}), "target", 0))


def test_images_of_another_target_are_not_compared() -> None:
    strong, weak = only(MANY, ONE_STEP, threat="black-box")
    assert flags(judged([strong, other_target(weak)], 0, ENOUGH)) == [set(), set()]
    assert flags(judged([other_target(strong), other_target(weak)], 0, ENOUGH)) == [
        {"single-beats-multi"},
        set(),
    ]


@pytest.mark.parametrize(
    ("smaller", "larger", "raised"), [(ENOUGH, 0, True), (ENOUGH - 1, 0, False), (0, 40, False)]
)
def test_a_larger_ball_has_to_hold_as_many_errors(smaller: int, larger: int, raised: bool) -> None:
    found = only(replace(MANY, eps=0.3), replace(MANY, eps=0.1), threat="black-box")
    expected = [{"not-monotone"} if raised else set(), set()]
    assert flags(judged(found, larger, smaller)) == expected


def test_only_radii_next_to_each_other_are_compared() -> None:
    found = only(*(replace(MANY, eps=eps) for eps in (0.1, 0.2, 0.3)))
    assert flags(judged(found, 10, 6, 3)) == [set(), set(), set()]
    assert flags(judged(found, 3, 20, 10)) == [set(), set(), {"not-monotone"}]


@pytest.mark.parametrize(
    "changes",
    [{"name": "bim"}, {"norm": "l2"}, {"backend": "art"}, {"scalable": False}, {"config": {"steps": 2}}],
)
def test_other_attacks_are_no_sweep(changes: dict[str, Any]) -> None:
    found = only(replace(MANY, eps=0.1), replace(MANY, eps=0.3, **changes))
    assert flags(judged(found, ENOUGH, 0)) == [set(), set()]


# --- the best attack that knows the defense, and the best one that does not ---------------------------


def compared(
    aware: int, unaware: int, change: Callable[[Cell], Cell] = lambda cell: cell, **aware_options: Any
) -> list[set[str]]:
    """A white-box cell whose attacks in the loop fool `aware` images, and a black-box cell."""
    (white,), (black,) = only(MANY), only(MANY, threat="black-box")
    # the image of the bare target counts under white-box too, so the two errors are equal
    of_white = result(change(white), range(unaware), loop_wrong=range(aware), **aware_options)
    return flags([(change(white), of_white), (change(black), result(change(black), range(unaware)))])


@pytest.mark.parametrize(
    ("aware", "unaware", "raised"),
    [(20, 20 + ENOUGH, True), (20, 20 + ENOUGH - 1, False), (0, ENOUGH, True), (40, 20, False)],
)
def test_attacks_that_know_the_defense_have_to_find_as_much_as_those_that_do_not(
    aware: int, unaware: int, raised: bool
) -> None:
    assert compared(aware, unaware) == [{"black-beats-white"} if raised else set(), set()]


def test_a_row_without_robust_images_is_not_doubted() -> None:
    assert compared(0, 100) == [set(), set()]
    assert compared(0, 99) == [{"black-beats-white"}, set()]


def test_a_flag_is_raised_once_and_after_those_of_the_cell() -> None:
    (white,), (black,) = only(MANY), only(MANY, threat="black-box")
    of_white = result(white, range(50), loop_wrong=(), flags="not-moved black-beats-white")
    outcomes = outcomes_of([(white, of_white), (black, result(black, range(50)))])
    add_flags(outcomes)
    assert outcomes[0].record["flags"] == "not-moved black-beats-white"


def test_the_best_attacks_of_both_sides_are_compared() -> None:
    """Two attacks of each attacker: only the better one counts, and the doubt is about both cells."""
    bim = replace(MANY, name="bim")
    white, black = only(MANY, bim), only(MANY, bim, threat="black-box")

    def found(in_loop: Sequence[int], unaware: Sequence[int]) -> list[set[str]]:
        pairs = zip(white, in_loop, strict=True)
        cases = [(c, result(c, range(60), loop_wrong=range(count))) for c, count in pairs]
        return flags([*cases, *judged(black, *unaware)])[:2]

    assert found([10, 40], [20, 40 + ENOUGH]) == [{"black-beats-white"}] * 2
    assert found([40 + ENOUGH, 10], [20, 40 + ENOUGH]) == [set(), set()]
    assert found([10, 40], [20, 40]) == [set(), set()]


def test_judgements_of_many_draws_are_no_pairs_with_the_draw_of_the_selection() -> None:
    def with_judge(judge: str, *, random: bool) -> list[set[str]]:
        (white,), (black,) = only(MANY), only(MANY, threat="black-box")
        if random:
            white, black = made_random(white), made_random(black)
        cases = [(white, result(white, range(50), loop_wrong=())), (black, result(black, range(50)))]
        outcomes = outcomes_of(cases)
        for o in outcomes:
            o.record["judge"] = judge
        add_flags(outcomes)
        return [set(o.record["flags"].split()) for o in outcomes]

    assert with_judge("one", random=True) == [{"black-beats-white"}, set()]
    assert with_judge("mean-8", random=True) == [set(), set()]
    assert with_judge("mean-8", random=False) == [{"black-beats-white"}, set()]


def test_cells_of_another_defense_training_ball_or_kind_are_not_compared() -> None:
    (white,), (black,) = only(MANY), only(MANY, threat="black-box")

    def doubt(other: Cell, of: Cell = white) -> bool:
        found = flags([(of, result(of, range(50), loop_wrong=())), (other, result(other, range(50)))])
        return bool(found[0])

    assert doubt(black)
    (another,) = (c for c in cells(MANY, defenses=("other",)) if c.threat.name == "black-box")
    assert not doubt(another)
    assert not doubt(only(replace(MANY, eps=0.1), threat="black-box")[0])
    assert not doubt(only(replace(MANY, uses="scores"), threat="black-box")[0])
    assert not doubt(other_target(black))
    first, second = only(MANY, threat="black-box", seeds=(0, 1))
    assert doubt(first)
    assert not doubt(second)
    assert not doubt(only(MANY, threat="gray-box")[0])  # it knows the defense
    assert doubt(only(MANY, threat="transfer")[0])
    assert not doubt(black, of=only(MANY, threat="gray-box")[0])  # it does not know all


def test_images_that_both_attacked_are_compared() -> None:
    (white,), (black,) = only(MANY), only(MANY, threat="black-box")
    of_white = result(white, range(50), loop_wrong=(), n=60)
    assert flags([(white, of_white), (black, result(black, range(55, 100)))])[0] == set()  # five in common
    assert flags([(white, of_white), (black, result(black, range(50, 100)))])[0] == {"black-beats-white"}


def test_attacks_on_different_numbers_of_images_are_compared_on_those_of_both() -> None:
    strong, weak = only(MANY, ONE_STEP, threat="black-box")

    def doubted(images: int, others: int, first: int) -> bool:
        found = result(strong, (), n=images), result(weak, range(first, others), n=others)
        return bool(flags(zip((strong, weak), found, strict=True))[0])

    assert not doubted(60, 100, first=60 - ENOUGH + 1)  # six in common
    assert doubted(60, 100, first=60 - ENOUGH)
    assert doubted(100, 60, first=60 - ENOUGH)
    assert not doubted(100, 60, first=60 - ENOUGH + 1)
