"""A target that only guesses is in doubt, and classes without images are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import benchmark
from benchmark.display import Silent
from benchmark.errors import UserError
from benchmark.report.page import read_flags
from benchmark.runs import prepare, run_prepared
from benchmark.stats import at_chance
from benchmark.summary import conclusion
from tests.conftest import REPOSITORY

PLUGINS = [REPOSITORY / "tests" / "plugins_scores.py"]
FLAG = "target-at-chance"


def grid(target: dict[str, Any] | str, **keys: Any) -> dict[str, Any]:
    return {
        "name": "chance",
        "datasets": [{"name": "digits", "n": 60}],
        "targets": [target],
        "source": "target",
        "defenses": ["identity", "median"],
        "attacks": [{"name": "pgd", "eps": 0.1, "steps": 10}],
        "threats": ["black-box"],
    } | keys


def run(tmp_path: Path, target: dict[str, Any] | str, **keys: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records and the leaderboard."""
    options: dict[str, Any] = {"store": tmp_path / "store", "plugins": PLUGINS, "data": tmp_path}
    options["trust"] = list(tmp_path.glob("own.py"))
    records = benchmark.run(grid(target, **keys), out=tmp_path / "out", **options)
    assert (records["status"] == "ok").all()
    return records, pd.read_csv(tmp_path / "out" / "leaderboard.csv")


def raised(frame: pd.DataFrame) -> list[bool]:
    return [FLAG in str(text).split() for text in frame["flags"]]


@pytest.mark.parametrize("fault", ["order", "normalisation"])
@pytest.mark.parametrize("n", [8, 60])
def test_a_target_that_guesses_is_doubted_and_has_no_rank(tmp_path: Path, fault: str, n: int) -> None:
    target, datasets = {"name": "guess", "fault": fault}, [{"name": "digits", "n": n}]
    records, board = run(tmp_path, target, datasets=datasets)
    assert (records["clean_error_target"] > 0.8).all()
    assert all(raised(records))
    assert all(raised(board))
    assert board["rank"].isna().all()
    assert (board["bound"] == "≥").all()


def test_it_has_no_rank_either_where_every_image_is_wrong(tmp_path: Path) -> None:
    keys = {"attacks": [{"name": "pgd", "eps": 1.0, "steps": 10}]}
    _, board = run(tmp_path, {"name": "guess", "fault": "order"}, **keys)
    assert (board["error"] == 1).all()
    assert all(raised(board))
    assert board["rank"].isna().all()


def test_an_honest_target_is_not_doubted(tmp_path: Path) -> None:
    records, board = run(tmp_path, "guess")
    assert not any(raised(records))
    assert board["rank"].notna().any()


def test_the_end_of_the_run_names_the_likely_causes(tmp_path: Path) -> None:
    target = {"name": "guess", "fault": "order"}
    prepared = prepare(grid(target), Silent(), store=str(tmp_path / "store"), plugins=PLUGINS)
    finished = run_prepared(prepared, Silent(), tmp_path / "out")
    said = "\n".join(conclusion(finished, tmp_path / "report.html"))
    for cause in (FLAG, "order", "normalisation", "labels may begin at 1"):
        assert cause in said
    assert FLAG in {flag.name for flag in read_flags()}


MODULE = """
import torch
from torch import nn
from sklearn.datasets import load_digits

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        digits = load_digits()
        images, labels = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)
        means = torch.stack([images.flatten(1)[labels == label].mean(dim=0) for label in range(10)])
        self.register_buffer("means", torch.cat([means, torch.full((1, 64), 9.0)]))

    def forward(self, x):
        return x.flatten(1) @ self.means.T - self.means.square().sum(dim=1) / 2

def make():
    return Net()
"""


def write_npz(path: Path, first: int, classes: int | None) -> None:
    """Digits of 8 × 8 whose labels begin at `first`, with the names of some classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target + first
    arrays = dict(zip(("x_train", "y_train"), (images[:200], labels[:200]), strict=True))
    arrays |= dict(zip(("x_test", "y_test"), (images[200:260], labels[200:260]), strict=True))
    names = {} if classes is None else {"class_names": np.array([f"class-{i}" for i in range(classes)])}
    np.savez(path, **arrays, **names)


class Listener(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def warnings_for(tmp_path: Path) -> list[str]:
    listener, data = Listener(), [{"name": "npz", "path": "own.npz"}]
    keys: dict[str, Any] = {"datasets": data, "defenses": ["identity"]}
    prepare(grid("guess", **keys), listener, store=str(tmp_path / "store"), plugins=PLUGINS, data=tmp_path)
    return listener.warnings


def test_labels_that_begin_at_1_make_a_given_target_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(MODULE)
    given: dict[str, Any] = {"name": "module", "factory": "own.py:make"}
    keys: dict[str, Any] = {"datasets": [{"name": "npz", "path": "own.npz"}], "defenses": ["identity"]}
    for first, guesses in ((1, True), (0, False)):
        write_npz(tmp_path / "own.npz", first, classes=11)
        records, board = run(tmp_path, given, **keys)
        assert raised(records) == raised(board) == [guesses]
        assert board["rank"].isna().all() == guesses
        (warning,) = warnings_for(tmp_path)
        assert f"no images of class 'class-{0 if first else 10}', of 11 classes" in warning


def test_labels_that_begin_at_1_without_names_of_classes_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", 1, classes=None)
    with pytest.raises(UserError, match=r"the smallest label is 1: labels count from 0"):
        warnings_for(tmp_path)


def test_a_label_that_marks_no_class_leaves_classes_without_images(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", 0, classes=None)
    with np.load(tmp_path / "own.npz") as file:
        arrays = dict(file)
    arrays["y_train"][0] = arrays["y_test"][0] = 255
    np.savez(tmp_path / "own.npz", **arrays)
    (warning,) = warnings_for(tmp_path)
    assert "no images of class '10', '11', '12', '13', '14' and 240 others, of 256 classes" in warning


def test_a_part_that_lacks_a_class_is_named(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", 0, classes=10)
    with np.load(tmp_path / "own.npz") as file:
        arrays = dict(file)
    kept = arrays["y_test"] != 3
    arrays |= {"x_test": arrays["x_test"][kept], "y_test": arrays["y_test"][kept]}
    np.savez(tmp_path / "own.npz", **arrays)
    (warning,) = warnings_for(tmp_path)
    assert "no test images of class 'class-3', of 10 classes" in warning


def test_a_data_set_with_images_of_every_class_is_not_warned_of(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", 0, classes=None)
    assert not warnings_for(tmp_path)


def outcomes(right: int, wrong: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(right + wrong) % classes
    predicted = np.where(np.arange(right + wrong) < right, labels, (labels + 1) % classes)
    return predicted, labels


@pytest.mark.parametrize(
    ("right", "wrong", "classes", "guesses"),
    [
        (0, 6, 10, True),  # nothing right is meaningful from six images on
        (0, 5, 10, False),
        (1, 0, 10, False),
        (10, 90, 10, True),
        (20, 80, 10, False),  # weak, but honest
        (3, 7, 10, False),
        (0, 100, 2, True),  # the other way round
        (50, 50, 2, True),
        (60, 40, 2, False),
        (1, 99, 1000, True),
        (3, 97, 1000, False),
        (0, 0, 10, False),
    ],
)
def test_guessing_is_told_from_weakness(right: int, wrong: int, classes: int, guesses: bool) -> None:
    assert at_chance(*outcomes(right, wrong, classes), classes) == guesses


def test_one_answer_for_all_images_is_a_guess_however_often_it_is_right() -> None:
    labels = np.repeat([0, 1], [80, 20])
    assert at_chance(np.zeros(100, dtype=int), labels, 10)
    assert not at_chance(np.zeros(80, dtype=int), labels[:80], 10)  # only one class was shown
