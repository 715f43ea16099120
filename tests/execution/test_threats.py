"""Constructed plugins with known outcomes: which must be broken or doubted, and which must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmark.datasets.digits import Digits
from benchmark.plugins.plugin import Config
from benchmark.plugins.registry import default_registry
from tests.conftest import Runner

PGD = {"name": "pgd", "eps": 0.1, "steps": 10}


def _row(records, **wanted):
    for column, value in wanted.items():
        records = records[records[column] == value]
    assert len(records) == 1, records
    return records.iloc[0]


def test_a_cut_gradient_does_not_read_as_robustness(small_run: Runner) -> None:
    records = small_run(defenses=["identity", "detached"], attacks=[PGD])
    undefended = _row(records, defense="identity", threat="white-box")
    detached = _row(records, defense="detached", threat="white-box")
    assert undefended["error"] > 0.5
    assert detached["error"] == undefended["error"]


def test_zero_gradient_is_doubted_if_an_image_is_robust_only_with_the_defense(
    small_run: Runner,
) -> None:
    records = small_run(defenses=["identity", "round8"], attacks=["deepfool"], threats=["white-box"])
    assert "zero-gradient" not in _row(records, defense="identity")["flags"]
    rounded = _row(records, defense="round8")
    more_robust = rounded["error"] < rounded["error_baseline"]
    assert ("zero-gradient" in str(rounded["flags"])) == more_robust


@pytest.mark.parametrize("threat", ["black-box", "white-box"])
@pytest.mark.parametrize(
    ("how", "attack"),
    [
        ("stepped", PGD),
        ("stepped", {"name": "pgd", "eps": 2.0, "distance": "l2"}),
        ("stepped", {"name": "deepfool"}),
        ("nan-gradient", {"name": "bim", "eps": 0.3}),
        ("nan-gradient", {"name": "cw-linf"}),
    ],
)
def test_an_attack_without_a_gradient_is_doubted(
    small_run: Runner, threat: str, how: str, attack: dict[str, Any]
) -> None:
    targets = [{"name": "odd", "how": how}]
    row = _row(small_run(targets=targets, defenses=["identity"], attacks=[attack], threats=[threat]))
    assert row["status"] == "ok"
    assert row["error"] < 0.9
    assert "zero-gradient" in row["flags"]


@pytest.mark.parametrize("backend", ["native", "foolbox", "art"])
def test_every_library_breaks_a_very_confident_target(small_run: Runner, backend: str) -> None:
    """The gradient of the float32 cross-entropy, which libraries follow, is zero at such large scores."""
    row = _row(
        small_run(
            targets=[{"name": "odd"}],
            defenses=["identity"],
            attacks=[PGD | {"eps": 0.3, "backend": backend}],
            threats=["black-box"],
        )
    )
    assert row["error"] > 0.9
    assert "zero-gradient" not in str(row["flags"])


@pytest.mark.parametrize("attack", [PGD, {"name": "jsma"}, {"name": "cw-linf"}, {"name": "deepfool"}])
def test_scores_that_are_not_numbers_fail_the_cell(small_run: Runner, attack: dict[str, Any]) -> None:
    targets = [{"name": "odd", "how": "nan-scores"}]
    row = _row(small_run(targets=targets, defenses=["identity"], attacks=[attack], threats=["black-box"]))
    assert row["status"] == "failed"
    assert "not finite" in row["reason"]


def test_black_box_images_are_the_same_for_every_defense(small_run: Runner) -> None:
    records = small_run(defenses=["identity", "round8", "median"], attacks=[PGD], threats=["black-box"])
    assert records["error_target"].nunique() == 1
    assert records["psnr_adv"].nunique() == 1


def test_white_box_is_never_weaker_than_black_box_or_than_doing_nothing(small_run: Runner) -> None:
    records = small_run(
        defenses=["identity", "round8", "jpeg", "median", "detached"],
        attacks=[{"name": "fgsm", "eps": [0.02, 0.1]}, PGD, "deepfool"],
    )
    key = ["defense", "attack", "eps"]
    error = records.fillna({"eps": -1}).pivot_table(index=key, columns="threat", values="error")
    clean = records.fillna({"eps": -1}).groupby(key)["clean_error"].first()
    assert len(error) == 20
    assert (error["white-box"] >= error["black-box"]).all()
    assert (error["white-box"] >= clean).all()


def test_a_larger_ball_is_never_safer_for_an_undefended_linear_classifier(small_run: Runner) -> None:
    records = small_run(attacks=[{"name": "fgsm", "eps": [0.0, 0.05, 0.1, 0.2]}], threats=["black-box"])
    errors = records.sort_values("eps")["error"].tolist()
    assert errors == sorted(errors)
    assert errors[0] == records["clean_error"].iloc[0]


def test_fgsm_error_is_the_closed_form_one_for_a_linear_classifier(small_run: Runner, constructed) -> None:
    """For linear scores an L∞ attack changes the margin of two classes by at most eps · ‖w_i − w_j‖₁."""
    records = small_run(
        attacks=[{"name": "fgsm", "eps": 0.05}, {"name": "pgd", "eps": 0.05, "steps": 40}],
        threats=["black-box"],
    )
    fgsm, pgd = (_row(records, attack=name)["error"] for name in ("fgsm", "pgd"))
    bound = _closed_form_error(constructed, eps=0.05)
    assert fgsm <= bound + 1e-9
    assert pgd == pytest.approx(bound, abs=0.04)


def _closed_form_error(plugin, eps: float) -> float:
    """The share of the 60 images for which the largest change turns the margin of some class pair."""
    registry = default_registry()
    registry.add_file(plugin)
    splits = Digits(Config(), plugin.parent).splits()
    target = registry.get("target", "nearest-mean").load()(Config(), (1, 28, 28), 10)
    train_images = splits.train.take(torch.arange(len(splits.train))).flatten(1)
    for label in range(10):
        target.means[label] = train_images[splits.train.labels == label].mean(dim=0)
    x, y = splits.test.take(torch.arange(60)), splits.test.labels[:60]
    misclassified = 0
    for image, label in zip(x, y, strict=True):
        scores = target(image[None])[0]
        own = target.means[label]
        pixels = image.flatten()
        for other in range(10):
            if other == label:
                continue
            direction = target.means[other] - own
            # each pixel changes by at most eps, and stays in [0, 1]
            room = torch.where(direction > 0, (1 - pixels).clamp(max=eps), pixels.clamp(max=eps))
            if scores[other] - scores[label] + (direction.abs() * room).sum() > 0:
                misclassified += 1
                break
    return misclassified / 60


def test_noise_has_no_white_box_row_and_says_why(small_run: Runner) -> None:
    records = small_run(attacks=["noise"])
    skipped = _row(records, threat="white-box")
    assert skipped["status"] == "skipped"
    assert "black-box row" in skipped["reason"]
    assert np.isnan(skipped["error"])


def test_a_random_defense_is_judged_on_fresh_draws_and_reproducibly(small_run: Runner, tmp_path) -> None:
    keys = {"defenses": ["noisy"], "attacks": [PGD]}
    first = small_run(**keys, store=str(tmp_path / "a"))
    again = small_run(**keys, store=str(tmp_path / "b"))
    assert first["error"].tolist() == again["error"].tolist()
    assert first["defense_seed"].tolist() == [0, 0]


def test_an_untrained_purifier_is_doubted(small_run: Runner) -> None:
    records = small_run(defenses=["constant", {"name": "shift", "strength": 0.0}], threats=["black-box"])
    assert "purifier-not-trained" in _row(records, defense="constant")["flags"]
    assert _row(records, defense="shift")["flags"] is np.nan


def test_an_attack_that_gives_up_is_doubted(small_run: Runner) -> None:
    records = small_run(attacks=["gives-up"])
    for threat in ("black-box", "white-box"):
        assert "not-moved" in _row(records, threat=threat)["flags"]
