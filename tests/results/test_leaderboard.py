"""Ranking by the worst case per image within one ball, without rows in doubt, compared with controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.metrics.statistics import wilson
from benchmark.plan.specs import AttackSpec
from benchmark.plan.threats import THREATS
from tests.results.hand_made import CW, FGSM, PGD, N, attack, board, cells, is_cell, made_random, result


def test_the_worst_case_is_taken_per_image_and_not_as_a_mean_or_a_maximum() -> None:
    wrong = {"pgd": set(range(10)), "fgsm": set(range(5, 20))}
    rows = board([(c, result(c, wrong[c.attack.name])) for c in cells(PGD, FGSM)])
    assert rows.loc["mine", "error"] == 0.20


def test_white_box_counts_what_black_box_found_but_not_the_other_way_round() -> None:
    cases = [(c, result(c, {1, 2, 3} if c.threat.name == "black-box" else {50, 51})) for c in cells(PGD)]
    assert board(cases, "white-box").loc["mine", "error"] == 0.05
    assert board(cases, "black-box").loc["mine", "error"] == 0.03


@pytest.mark.parametrize(
    "other", [replace(attack("advgan"), trainable=True), replace(attack("square"), uses="scores")]
)
def test_an_attack_that_beats_the_gradient_attacks_raises_a_doubt(other: AttackSpec) -> None:
    for found, flagged in ((12, False), (13, True)):
        wrong = {"pgd": set(range(10)), other.name: set(range(found))}
        cases = [(c, result(c, wrong[c.attack.name])) for c in cells(PGD, other)]
        assert ("weak-gradient-attack" in board(cases).loc["mine", "flags"]) == flagged
        assert "weak-gradient-attack" not in board(cases, "black-box").loc["mine", "flags"]


def test_minimal_norm_images_count_if_they_lie_in_the_ball() -> None:
    near = [(c, result(c, {0} if c.attack.name == "cw" else set(), linf=0.2)) for c in cells(PGD, CW)]
    far = [(c, result(c, {0} if c.attack.name == "cw" else set(), linf=0.4)) for c in cells(PGD, CW)]
    assert board(near).loc["mine", "error"] == 0.01
    assert board(far).loc["mine", "error"] == 0.0


def test_a_smaller_ball_does_not_count_images_outside_of_it() -> None:
    small, large = attack("pgd", 0.1, mandatory=True), attack("pgd", 0.3, mandatory=True)
    cases = [
        (c, result(c, {1} if c.attack.eps == 0.1 else {1, 2}, linf=c.attack.eps)) for c in cells(small, large)
    ]
    rows = board(cases).reset_index().set_index(["defense", "eps"])
    assert rows.loc[("mine", 0.1), "error"] == 0.01
    assert rows.loc[("mine", 0.3), "error"] == 0.02


def test_a_ball_without_random_attacks_counts_those_of_smaller_balls() -> None:
    small, large = attack("pgd", 0.1, mandatory=True), attack("fgsm", 0.3)
    cases = [
        (c, result(c, {1, 2} if c.attack.name == "pgd" else {3}, linf=c.attack.eps))
        for c in cells(small, large)
    ]
    rows = board(cases).reset_index().set_index(["defense", "eps"])
    assert rows.loc[("mine", 0.3), "error"] == 0.03
    assert rows.loc[("mine", 0.3), "attacks"] == "fgsm pgd"
    assert rows.loc[("mine", 0.1), "attacks"] == "pgd"


def test_a_strong_attack_on_few_images_is_not_diluted_by_a_weak_one_on_many() -> None:
    strong = attack("strong", 0.2)
    cases = [
        (c, result(c, set(range(45)), n=50) if c.attack.name == "strong" else result(c, {1}, n=N))
        for c in cells(PGD, strong)
    ]
    row = board(cases)
    row = row[row["eps"] == 0.3].loc["mine"]
    assert (row["n"], row["error"]) == (50, 0.9)
    assert row["psnr"] == np.arange(50).mean()


def test_without_the_mandatory_attack_there_is_no_rank() -> None:
    rows = board([(c, result(c, set())) for c in cells(FGSM)])
    assert rows.loc["mine", "flags"].split()[0] == "incomplete"
    assert pd.isna(rows.loc["mine", "rank"])
    assert rows.loc["mine", "bound"] == "≥"


def test_a_failed_attack_removes_the_rank() -> None:
    cases = [
        (c, result(c, set(), status="failed" if is_cell(c, "mine", "fgsm", "white-box") else "ok"))
        for c in cells(PGD, FGSM)
    ]
    rows = board(cases)
    assert pd.isna(rows.loc["mine", "rank"])
    assert rows.loc["placebo", "rank"] == 1


def test_a_failed_norm_minimising_attack_removes_the_rank() -> None:
    for failed, ranked in (("white-box", False), ("black-box", True)):
        cases = [
            (c, result(c, set(), status="failed" if is_cell(c, "mine", "cw", failed) else "ok"))
            for c in cells(PGD, CW)
        ]
        assert pd.notna(board(cases).loc["mine", "rank"]) == ranked


def test_a_query_based_attack_gives_a_rank_only_if_it_is_mandatory() -> None:
    attacks = [replace(attack("square", mandatory=mandatory), uses="scores") for mandatory in (True, False)]
    for one, ranked in zip(attacks, (True, False), strict=True):
        query = [c for c in cells(one) if c.threat.name == "query"]
        assert pd.notna(board([(c, result(c, set())) for c in query], "query").loc["mine", "rank"]) == ranked
        white_box = [(c, result(c, set())) for c in cells(one) if c.threat.name == "white-box"]
        assert pd.isna(board(white_box).loc["mine", "rank"])  # gradients were available


def test_the_gap_is_between_errors_on_the_same_images() -> None:
    cases = [
        (c, result(c, {0, 1, 2, 3}, n=N if c.threat.name == "black-box" else 10))
        for c in cells(PGD)
        if c.threat.name in ("black-box", "white-box")
    ]
    row = board(cases).loc["mine"]
    assert (row["n"], row["error"], row["gap"]) == (10, 0.4, 0.0)


def test_a_doubt_removes_the_rank_but_keeps_the_successes() -> None:
    cases = [
        (c, result(c, {0, 1}, flags="zero-gradient" if c.purifier.name == "mine" else "")) for c in cells(PGD)
    ]
    rows = board(cases)
    assert pd.isna(rows.loc["mine", "rank"])
    assert rows.loc["mine", "error"] == 0.02
    assert rows.loc["mine", "bound"] == "≥"


@pytest.mark.parametrize(("flags", "shared"), [("zero-gradient", N), ("", 40)])
def test_only_ranked_rows_limit_the_number_of_images(flags: str, shared: int) -> None:
    few = {"mine": {"n": 40, "flags": flags}}
    rows = board([(c, result(c, {1, 2}, **few.get(c.purifier.name, {}))) for c in cells(PGD)])
    assert rows.loc["placebo", "n"] == shared
    assert rows.loc["placebo", "error"] == 2 / shared
    assert rows.loc["mine", "n"] == 40


def test_a_row_without_robust_images_keeps_its_rank_despite_a_doubt() -> None:
    everything = set(range(N))
    rows = board([(c, result(c, everything, flags="zero-gradient")) for c in cells(PGD)])
    assert rows.loc["mine", "rank"] == 1


@pytest.mark.parametrize(("errors", "below"), [(set(), False), (set(range(28)), True)])
def test_a_defense_must_beat_the_controls_significantly(errors: set[int], below: bool) -> None:
    cases = [(c, result(c, errors if c.purifier.name == "mine" else set(range(30)))) for c in cells(PGD)]
    assert ("below-control" in board(cases).loc["mine", "flags"]) == below


def test_a_defense_must_beat_every_control() -> None:
    wrong = {"mine": 10, "placebo": 30, "placebo-2": 12}
    found = cells(PGD, defenses=tuple(wrong))
    assert (
        "below-control"
        in board([(c, result(c, range(wrong[c.purifier.name]))) for c in found]).loc["mine", "flags"].split()
    )
    wrong["placebo-2"] = 30
    assert not board([(c, result(c, range(wrong[c.purifier.name]))) for c in found]).loc["mine", "flags"]


def test_a_defense_must_beat_the_controls_on_its_worst_seed() -> None:
    def flags(*errors: int) -> str:
        found = cells(PGD, seeds=(0, 1, 2))
        wrong = {("mine", seed): count for seed, count in enumerate(errors)} | {("placebo", None): 30}
        cases = [(c, result(c, range(wrong[c.purifier.name, c.purifier.seed]))) for c in found]
        return str(board(cases).loc["mine", "flags"])

    assert flags(10, 10, 10) == ""
    assert flags(10, 29, 10) == "below-control"
    assert flags(29, 10, 10) == "below-control"
    assert flags(10, 10, 29) == "below-control"


@pytest.mark.parametrize(("fewer", "below"), [(4, True), (5, False)])
def test_five_images_fewer_are_significantly_fewer(fewer: int, below: bool) -> None:
    """0.5⁵ is below 0.05, and 0.5⁴ is not."""
    wrong = {"mine": range(30 - fewer), "placebo": range(30)}
    flags = board([(c, result(c, wrong[c.purifier.name])) for c in cells(PGD)]).loc["mine", "flags"]
    assert flags == ("below-control" if below else "")


def test_two_controls_are_beaten_with_the_correction_of_holm() -> None:
    """0.5⁵ is above 0.05 / 2, and 0.5⁶ is below."""
    for fewer, below in ((5, True), (6, False)):
        names = ("mine", "placebo", "placebo-2")
        wrong = dict.fromkeys(names, range(30)) | {"mine": range(30 - fewer)}
        cases = [(c, result(c, wrong[c.purifier.name])) for c in cells(PGD, defenses=names)]
        assert ("below-control" in board(cases).loc["mine", "flags"]) == below


def test_a_control_with_fewer_images_leaves_the_check_unchecked() -> None:
    """In doubt itself, it does not reduce the images of the row."""
    for n, unchecked in ((N, False), (N - 1, True)):
        options = {"placebo": {"n": n, "flags": "zero-gradient"}}
        found = [
            (
                c,
                result(
                    c, {"mine": (), "placebo": range(30)}[c.purifier.name], **options.get(c.purifier.name, {})
                ),
            )
            for c in cells(PGD)
        ]
        assert ("unchecked:below-control" in board(found).loc["mine", "flags"]) == unchecked


def test_a_random_control_is_compared_by_its_joint_selection() -> None:
    """The maximum over several selections would let a control look worse than it is."""
    cases = []
    for c in map(made_random, cells(PGD, FGSM)):
        lucky = c.attack.name == "fgsm"
        wrong = range(22) if c.purifier.name == "mine" else range(60 if lucky else 24)
        cases.append((c, result(c, wrong, margins=np.full(N, 0.1 if lucky else 0.2))))
    rows = board(cases)
    assert rows.loc["placebo", "error"] == 0.6
    assert "below-control" in rows.loc["mine", "flags"]


def test_ranked_rows_are_compared_on_the_images_that_all_of_them_have() -> None:
    """On its own images the second defense is worse, on the shared ones better."""
    wrong = {"a": range(10), "b": range(35, 100), "placebo": range(30)}
    options = {"a": {"n": 40}}
    names = tuple(wrong)
    cases = [
        (c, result(c, wrong[c.purifier.name], **options.get(c.purifier.name, {})))
        for c in cells(PGD, defenses=names)
    ]
    rows = board(cases)
    assert rows["n"].to_dict() == dict.fromkeys(names, 40)
    assert rows["error"].to_dict() == {"a": 10 / 40, "b": 5 / 40, "placebo": 30 / 40}
    assert rows["rank"].to_dict() == {"b": 1, "a": 2, "placebo": 3}
    assert list(rows.index) == ["b", "a", "placebo"]


def test_clean_errors_count_in_the_worst_case() -> None:
    cases = [(c, result(c, range(5), clean_wrong=range(3, 9))) for c in cells(PGD)]
    row = board(cases).loc["mine"]
    assert (row["error"], row["clean_error"]) == (0.09, 0.06)
    assert (row["error_low"], row["error_high"]) == pytest.approx(wilson(9, N))


def test_rows_in_doubt_come_last_in_the_order_of_the_grid() -> None:
    names = ("doubted", "a", "placebo", "b")
    wrong = {"doubted": (), "a": range(9), "placebo": range(5), "b": range(3)}
    flagged = {"doubted": "zero-gradient"}
    cases = [
        (c, result(c, wrong[c.purifier.name], flags=flagged.get(c.purifier.name, "")))
        for c in cells(PGD, defenses=names)
    ]
    assert list(board(cases).index) == ["b", "placebo", "a", "doubted"]


def test_balls_and_attackers_are_ranked_apart() -> None:
    small, large = attack("pgd", 0.1, mandatory=True), attack("pgd", 0.3, mandatory=True)
    cases = [
        (c, result(c, range(20 if c.attack.eps == 0.3 else 2), linf=c.attack.eps))
        for c in cells(small, large)
    ]
    for threat in ("white-box", "black-box"):
        rows = board(cases, threat).reset_index().set_index(["defense", "eps"])
        assert set(rows["rank"]) == {1}


def test_the_gap_is_that_of_the_same_defense_and_ball() -> None:
    found = {("mine", "black-box"): 10, ("mine", "white-box"): 25, ("placebo", "black-box"): 20}
    cases = [(c, result(c, range(found.get((c.purifier.name, c.threat.name), 8)))) for c in cells(PGD)]
    rows = board(cases)
    assert rows["gap"].to_dict() == pytest.approx({"mine": 0.15, "placebo": 0.0})


def test_without_controls_the_check_is_unchecked() -> None:
    rows = board([(c, result(c, set())) for c in cells(PGD, defenses=("mine",))])
    assert rows.loc["mine", "flags"] == "unchecked:below-control"
    assert rows.loc["mine", "rank"] == 1


def test_ties_share_a_rank() -> None:
    wrong = {"a": {1}, "b": {2}, "placebo": {1, 2}}
    rows = board([(c, result(c, wrong[c.purifier.name])) for c in cells(PGD, defenses=("a", "b", "placebo"))])
    assert rows["rank"].to_dict() == {"a": 1, "b": 1, "placebo": 3}


def test_the_worst_case_never_mixes_seeds() -> None:
    cases = [
        (c, result(c, set(range(10)) if c.purifier.seed == 0 else set(range(50, 60))))
        for c in cells(PGD, defenses=("mine",), seeds=(0, 1))
    ]
    rows = board(cases)
    assert rows.loc["mine", "error"] == pytest.approx(0.10)
    assert rows.loc["mine", "seeds"] == 2


def test_a_control_that_failed_leaves_the_check_unchecked() -> None:
    cases = [
        (c, result(c, set(), status="failed" if c.purifier.name == "placebo" else "ok")) for c in cells(PGD)
    ]
    assert board(cases).loc["mine", "flags"] == "unchecked:below-control"


def test_a_random_defense_is_judged_on_one_selected_image() -> None:
    """Two attacks fool the pipeline on different images by chance; the one with the larger margin counts."""
    wrong = {"pgd": set(range(50)), "fgsm": set(range(50, 100))}
    margins = {"pgd": np.full(N, 0.2), "fgsm": np.full(N, 0.1)}
    cases = [
        (c, result(c, wrong[c.attack.name], margins=margins[c.attack.name]))
        for c in map(made_random, cells(PGD, FGSM))
    ]
    assert board(cases).loc["mine", "error"] == 0.5


@pytest.mark.parametrize("shared", [N, 20])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_luck_of_the_draws_never_makes_a_stronger_attacker_look_weaker(
    seed: int, ties: bool, shared: int
) -> None:
    """Selected images may be robust on the fresh draw; here each is misclassified with probability 0.5."""
    rng = np.random.default_rng(seed)
    cases = []
    for cell in map(made_random, cells(PGD, FGSM, defenses=("mine", "other"))):
        n = N if cell.purifier.name == "mine" else shared
        margins = rng.integers(2, size=n) if ties else rng.normal(size=n)
        cases.append((cell, result(cell, set(np.flatnonzero(rng.random(n) < 0.5)), margins=margins, n=n)))
    rows = {threat: board(cases, threat).loc["mine"] for threat in THREATS}
    assert {row["n"] for row in rows.values()} == {shared}
    errors = {threat: row["error"] for threat, row in rows.items()}
    for cell, found in cases:
        if cell.purifier.name == "mine":
            single = found.outcomes["wrong"].to_numpy()[:shared].mean()
            assert errors[cell.threat.name] >= single
            for wider, threat in THREATS.items():
                if cell.threat.name in threat.nested:
                    assert errors[wider] >= max(single, errors[cell.threat.name])


def test_the_written_leaderboard_has_ranks_and_gaps(small_run, tmp_path: Path) -> None:
    small_run(defenses=["identity", "shift"], attacks=[{"name": "pgd", "eps": 0.1, "steps": 10}])
    written = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert set(written["defense"]) == {"identity", "shift"}
    assert written["rank"].tolist() == [1, 1, 1, 1]
    unaware, aware = (written[written["threat"] == name] for name in ("black-box", "white-box"))
    assert unaware["gap"].isna().all()
    assert aware["gap"].tolist() == pytest.approx((aware["error"].values - unaware["error"].values).tolist())
    assert "below-control" in written.set_index("defense").loc["shift", "flags"].iloc[0]
