"""Attackers that know the defense or query it: surfaces, presets, judging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import benchmark
from benchmark.errors import UserError
from studies import REPOSITORY

PGD = {"name": "pgd", "eps": 0.1, "steps": 10}
CONSTRUCTED = [REPOSITORY / "tests" / "plugin_files" / name for name in ("toy.py", "masking.py")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """Runs a grid on 40 digits against a linear classifier and gives the records by defense."""
    folder = tmp_path_factory.mktemp("white-box")

    def runner(out: Path | None = None, sanity: str = "fast", **keys: Any) -> pd.DataFrame:
        grid = {
            "datasets": [{"name": "digits", "n": 40}],
            "targets": ["nearest-mean"],
            "attacks": [PGD],
            "threats": ["white-box"],
        }
        return benchmark.run(
            grid | keys,
            out=out or folder / "out",
            store=folder / "store",
            plugins=CONSTRUCTED,
            sanity=sanity,
        ).set_index("defense", drop=False)

    return runner


def routes(row: pd.Series) -> dict[str, float]:
    return json.loads(row["routes"])


def test_the_purified_set_finds_errors_of_a_purifier_that_returns_training_images(run) -> None:
    still = PGD | {"eps": 0.2, "random_start": False}  # a random step may reach another image by chance
    records = run(defenses=["nearest-neighbour"], attacks=[still])
    by = routes(records.loc["nearest-neighbour"])
    assert by["exact"] == by["clean"]
    assert by["bank"] > by["exact"] + 0.3
    assert records.loc["nearest-neighbour", "error"] >= by["bank"]


def test_a_surrogate_is_attacked_in_addition_to_the_pipeline(run) -> None:
    row = run(defenses=["helpful-mask"]).loc["helpful-mask"]
    by = routes(row)
    assert set(by) >= {"clean", "target-only", "exact", "bpda-identity", "from-target-only", "bank"}
    assert by["exact"] <= by["clean"]
    assert by["unmasked"] > max(rate for route, rate in by.items() if route != "unmasked")
    assert row["error"] >= by["unmasked"]


@pytest.mark.parametrize(
    ("attack", "threat", "dropped"),
    [
        ({"name": "fgsm", "eps": 0.05}, "gray-box", ("bpda-identity",)),
        ({"name": "fgsm", "eps": 0.05}, "white-box", ("bpda-identity", "bpda-mimic", "bank")),
        (PGD | {"eps": 0.05}, "white-box", ("bpda-mimic", "bank")),  # another random start is another attack
    ],
)
def test_the_identity_is_attacked_without_replacements_of_its_gradient(
    run, attack: dict[str, Any], threat: str, dropped: tuple[str, ...]
) -> None:
    same_without_declaration = {"name": "shift", "strength": 0.0}
    records = run(
        defenses=["identity", {"chain": ["identity", "identity"]}, same_without_declaration],
        attacks=[attack],
        threats=[threat],
    )
    every = routes(records.loc["shift"])
    kept = {name: error for name, error in every.items() if not name.endswith(dropped)}
    assert kept.keys() < every.keys()
    for name in ("identity", "identity+identity"):
        assert routes(records.loc[name]) == kept
        assert records.loc[name, "error"] == records.loc["shift", "error"]


def test_an_identity_that_changes_images_fails_even_if_clean_images_stay(run) -> None:
    row = run(defenses=[{"name": "declared-identity", "how": "masks"}]).loc["declared-identity"]
    assert row["status"] == "failed"
    assert "declares `is_identity = True` but changed an image" in row["reason"]


def test_an_identity_cannot_hide_its_gradient(run) -> None:
    records = run(defenses=["identity", {"name": "declared-identity", "how": "detached"}])
    assert routes(records.loc["declared-identity"]) == routes(records.loc["identity"])


def test_a_latent_space_is_searched_by_the_attack_that_needs_one(run) -> None:
    attack = {"name": "on-manifold", "eps": 4.0, "distance": "l2", "steps": 60}
    records = run(
        defenses=["narrow-generator", "identity"], attacks=[attack], threats=["black-box", "white-box"]
    )
    white_box = records[records["threat"] == "white-box"]
    assert white_box.loc["narrow-generator", "error"] > 0.8
    assert white_box.loc["narrow-generator", "l2"] <= 4 + 1e-5
    assert pd.isna(white_box.loc["narrow-generator", "error_baseline"])
    assert white_box.loc["identity", "status"] == "skipped"
    assert set(records[records["threat"] == "black-box"]["status"]) == {"skipped"}


def test_the_nearest_image_of_an_attack_that_minimises_the_norm_counts(run) -> None:
    """The purified set leads to distant images with larger margins."""
    records = run(defenses=["identity"], attacks=["deepfool"], threats=["black-box", "white-box"])
    near, selected = (records[records["threat"] == threat].iloc[0] for threat in ("black-box", "white-box"))
    assert selected["error"] == near["error"]
    assert selected["l2"] <= near["l2"] + 1e-6


def test_strong_adds_steps_until_the_error_converges(run) -> None:
    threats = [{"name": "white-box", "preset": preset} for preset in ("fast", "strong")]
    weak = {"name": "pgd", "eps": 0.1, "steps": 2, "alpha": 0.01, "random_start": False}
    records = run(defenses=["identity"], attacks=[weak, PGD], threats=threats)
    error = {
        (row["attack_config"].count('"steps":2') == 1, json.loads(row["threat_config"])["preset"]): row
        for _, row in records.iterrows()
    }
    assert error[True, "strong"]["error"] > error[True, "fast"]["error"] + 0.1
    assert "unchecked:not-converged" in error[True, "fast"]["flags"]
    assert "not-converged" not in error[False, "strong"]["flags"]
    assert error[False, "strong"]["error"] >= error[False, "fast"]["error"]


def test_an_attack_that_has_not_converged_is_doubted(run) -> None:
    threat = {"name": "white-box", "preset": "strong"}
    row = run(defenses=["identity"], attacks=["crawl"], threats=[threat]).loc["identity"]
    assert "not-converged" in row["flags"].split()
    assert row["error"] < 1


@pytest.mark.parametrize(
    ("defense", "flag"),
    [
        ("counts-calls", "hidden-randomness"),
        ("shows-attackers-another", "hidden-randomness"),
        ("looks-around", "batch-dependent"),
        ("prototypes", "target-dependent"),
    ],
)
def test_an_inconsistent_defense_is_doubted_or_fails(run, defense: str, flag: str) -> None:
    row = run(defenses=[defense], attacks=[PGD | {"eps": 0.02}], threats=["black-box"]).loc[defense]
    assert row["status"] == "failed" or flag in str(row["flags"]).split()
    honest = run(defenses=["identity"], attacks=[PGD | {"eps": 0.02}], threats=["black-box"]).loc["identity"]
    assert pd.isna(honest["flags"])


def test_probabilities_for_scores_are_doubted(run) -> None:
    row = run(targets=["sure-mean"], defenses=["identity"], attacks=[PGD | {"eps": 0.01}]).loc["identity"]
    assert "probabilities-not-logits" in row["flags"].split()


def test_a_gradient_that_misses_the_slope_is_doubted(run) -> None:
    defenses = ["identity", "round8", {"name": "bit-depth", "bits": 1}, "wrong-slope"]
    records = run(defenses=defenses, attacks=[PGD | {"eps": 0.02}])
    doubted = records["flags"].fillna("").str.split().map(lambda flags: "fd-mismatch" in flags)
    assert list(doubted.index[doubted]) == ["wrong-slope"]
    assert (records["error"] < 1).all()  # each defense is robust on some images


def test_a_deterministic_defense_may_not_declare_itself_random(run) -> None:
    row = run(defenses=[{"name": "declared-noise", "noise": 0.0}], attacks=[PGD]).loc["declared-noise"]
    assert row["status"] == "failed"
    assert "its draws are the same" in row["reason"]


def test_full_sanity_runs_the_costly_checks(run) -> None:
    names = {"unbounded-fails", "noise-beats-attack"}
    attack = PGD | {"eps": 0.05}
    fast = run(defenses=["identity"], attacks=[attack]).loc["identity"]
    assert {f"unchecked:{name}" for name in names} <= set(fast["flags"].split())
    full = run(defenses=["identity", "constant"], attacks=[attack], sanity="full")
    flags = set(str(full.loc["identity", "flags"]).split())
    assert not flags & (names | {f"unchecked:{name}" for name in names})
    assert "unbounded-fails" in full.loc["constant", "flags"].split()


def test_an_attack_weaker_than_noise_or_a_single_step_is_doubted(run) -> None:
    stuck = {"name": "pgd", "eps": 0.3, "steps": 10, "alpha": 1e-6, "random_start": False}
    attacks = [stuck, {"name": "fgsm", "eps": 0.3}, {"name": "uniform-noise", "eps": 0.3}]
    records = run(datasets=[{"name": "digits", "n": 60}], defenses=["identity"], attacks=attacks)
    flags = records.set_index("attack").loc["pgd", "flags"].split()
    assert "single-beats-multi" in flags
    black_box = run(
        datasets=[{"name": "digits", "n": 200}], defenses=["identity"], attacks=attacks, threats=["black-box"]
    ).set_index("attack")
    worse = black_box.loc["uniform-noise", "error"] > black_box.loc["pgd", "error"] + 0.05
    assert ("noise-beats-attack" in str(black_box.loc["pgd", "flags"])) == worse


def test_a_stronger_attack_in_a_larger_ball_is_not_doubted(run) -> None:
    sizes = [
        {"name": "pgd", "eps": eps, "steps": 10, "alpha": 0.01, "random_start": False} for eps in (0.1, 0.3)
    ]
    records = run(defenses=["identity"], attacks=sizes)
    assert not records["flags"].str.contains("not-monotone").any()


def test_judges(run) -> None:
    judges = ["one", "mean-8", "worst-8", "majority-8"]
    records = run(
        defenses=[{"name": "declared-noise", "noise": 0.6}],
        attacks=[{"name": "fgsm", "eps": 0.02}],
        threats=[{"name": "black-box", "judge": judge} for judge in judges],
    ).set_index("judge")
    clean = records["clean_error"]
    assert clean["worst-8"] > max(clean["mean-8"], clean["majority-8"], clean["one"])
    assert clean["mean-8"] * 40 % 1 > 0  # a share of draws; the other judges count images
    assert (records["error"].drop("mean-8") * 40 % 1).round(6).isin([0, 1]).all()
    assert records.loc["worst-8", "error"] >= records.loc["mean-8", "error"]


def test_an_unknown_judge_is_refused(run) -> None:
    with pytest.raises(UserError, match="judge"):
        run(defenses=["identity"], threats=[{"name": "white-box", "judge": "best-3"}])


def test_query_based_attacks_use_no_gradient(run) -> None:
    square = {"name": "square", "eps": 0.2, "steps": 60}
    records = run(defenses=["detached", "identity"], attacks=[square, PGD], threats=["query"])
    square_rows = records[records["attack"] == "square"]
    assert (square_rows["backwards"] == 0).all()
    assert (square_rows["purifies"] > 0).all()
    assert square_rows.loc["detached", "error"] > square_rows.loc["detached", "clean_error"]
    assert set(records[records["attack"] == "pgd"]["status"]) == {"skipped"}


def test_copies_are_trained_from_other_seeds(run) -> None:
    records = run(
        defenses=[{"name": "shift", "strength": 0.1}, "declared-noise"],
        threats=[{"name": "gray-box", "copies": 1}, "white-box"],
    )
    for defense in ("shift", "declared-noise"):
        gray, white = (
            records[(records["defense"] == defense) & (records["threat"] == threat)].iloc[0]
            for threat in ("gray-box", "white-box")
        )
        assert {"copy-1-exact", "copy-1-bpda-identity", "target-only"} <= set(routes(gray))
        assert "exact" in routes(white)
        assert gray["error"] > gray["clean_error"]


def test_substitutes_are_trained_and_their_images_transfer(run) -> None:
    records = run(
        datasets=[{"name": "few-digits", "n": 40}],
        defenses=["identity", "median"],
        attacks=[PGD | {"eps": 0.2}],
        threats=["transfer", "black-box"],
    )
    transfer = records[records["threat"] == "transfer"]
    by = routes(transfer.loc["identity"])
    assert {"other-seed", "jacobian", "clean"} <= set(by)
    assert by["jacobian"] > by["clean"] + 0.2
    assert (transfer["error"] > transfer["clean_error"] + 0.2).all()
    assert transfer["recovered"].notna().all()


def test_the_worst_case_over_threats_has_at_least_the_error_of_each_cell(run, tmp_path: Path) -> None:
    threats = ["black-box", "query", "gray-box", "white-box"]
    attacks = [PGD, {"name": "fgsm", "eps": 0.1}, {"name": "square", "eps": 0.1, "steps": 20}, "deepfool"]
    names = ["identity", "median", "detached", "gaussian-noise"]
    records = run(tmp_path, defenses=names, attacks=attacks, threats=threats)
    board = pd.read_csv(tmp_path / "leaderboard.csv").set_index(["defense", "threat"])
    for defense in names:
        cells = records[
            (records["defense"] == defense) & (records["eps"] == 0.1) & (records["status"] == "ok")
        ]
        assert board.loc[(defense, "white-box"), "error"] >= cells["error"].max()
        assert board.loc[(defense, "white-box"), "gap"] >= 0
