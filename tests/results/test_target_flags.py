"""A target at chance raises a doubt; classes without images are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import benchmark
from benchmark.cli.summary import run_summary
from benchmark.errors import UserError
from benchmark.execution.context import ExecutionContext
from benchmark.execution.observer import Silent
from benchmark.metrics.statistics import at_chance, exchanged_classes
from benchmark.report.html_page import read_flags
from benchmark.runs import execute_run, plan_run
from studies import REPOSITORY

PLUGINS = [REPOSITORY / "tests" / "plugin_files" / "scores.py"]
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


def raised(frame: pd.DataFrame, flag: str = FLAG) -> list[bool]:
    return [flag in str(text).split() for text in frame["flags"]]


@pytest.mark.parametrize("fault", ["order", "normalisation"])
@pytest.mark.parametrize("n", [8, 60])
def test_a_target_at_chance_is_in_doubt_and_has_no_rank(tmp_path: Path, fault: str, n: int) -> None:
    target, datasets = {"name": "guess", "fault": fault}, [{"name": "digits", "n": n}]
    records, board = run(tmp_path, target, datasets=datasets)
    assert (records["clean_error_target"] > 0.8).all()
    assert all(raised(records))
    assert all(raised(board))
    assert board["rank"].isna().all()
    assert (board["bound"] == "≥").all()


def test_a_target_at_chance_has_no_rank_if_every_image_is_misclassified(tmp_path: Path) -> None:
    keys = {"attacks": [{"name": "pgd", "eps": 1.0, "steps": 10}]}
    _, board = run(tmp_path, {"name": "guess", "fault": "order"}, **keys)
    assert (board["error"] == 1).all()
    assert all(raised(board))
    assert board["rank"].isna().all()


def test_a_trained_target_is_not_in_doubt(tmp_path: Path) -> None:
    records, board = run(tmp_path, "guess")
    assert not any(raised(records))
    assert not any(raised(records, "class-order"))
    assert board["rank"].notna().any()


@pytest.mark.parametrize("eps", [0.1, 1.0])
def test_exchanged_classes_raise_their_own_doubt(tmp_path: Path, eps: float) -> None:
    keys = {"attacks": [{"name": "pgd", "eps": eps, "steps": 10}], "datasets": [{"name": "digits", "n": 100}]}
    records, board = run(tmp_path, {"name": "guess", "fault": "some"}, **keys)
    assert (records["clean_error_target"] < 0.7).all()
    assert not any(raised(records))
    assert all(raised(records, "class-order"))
    assert all(raised(board, "class-order"))
    assert board["rank"].isna().all()


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({"name": "guess", "fault": "order"}, [FLAG, "class-order"]),
        ({"name": "guess", "fault": "some"}, ["class-order"]),
        ({"name": "unit"}, []),
    ],
)
def test_the_target_of_craft_on_is_tested_too(
    tmp_path: Path, base: dict[str, str], expected: list[str]
) -> None:
    attack = {"name": "pgd", "eps": 0.1, "steps": 10}
    keys = {"attacks": [attack, attack | {"craft_on": base}], "datasets": [{"name": "digits", "n": 100}]}
    records, _ = run(tmp_path, "guess", **keys)
    craft_on = records["attack_config"].str.contains("craft_on")
    assert craft_on.sum() == 2
    for flag in (FLAG, "class-order"):
        assert not any(raised(records[~craft_on], flag))
        assert raised(records[craft_on], flag) == [flag in expected] * 2


def test_older_results_without_classes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ExecutionContext.tensors
    monkeypatch.setattr(
        ExecutionContext,
        "tensors",
        lambda self, task: {name: x for name, x in read(self, task).items() if name != "classes"},
    )
    attack = {"name": "pgd", "eps": 0.1, "steps": 10, "craft_on": {"name": "guess", "fault": "order"}}
    records, _ = run(tmp_path, "guess", attacks=[attack])
    assert not any(raised(records))


def test_the_end_of_the_run_names_the_likely_causes(tmp_path: Path) -> None:
    target = {"name": "guess", "fault": "order"}
    prepared = plan_run(grid(target), Silent(), store=str(tmp_path / "store"), plugins=PLUGINS)
    finished = execute_run(prepared, Silent(), tmp_path / "out")
    summary = "\n".join(run_summary(finished, tmp_path / "report.html"))
    for cause in (FLAG, "order", "normalisation", "labels may begin at 1"):
        assert cause in summary
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
    plan_run(grid("guess", **keys), listener, store=str(tmp_path / "store"), plugins=PLUGINS, data=tmp_path)
    return listener.warnings


def test_labels_that_begin_at_1_put_a_pretrained_target_at_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(MODULE)
    target: dict[str, Any] = {"name": "module", "factory": "own.py:make"}
    keys: dict[str, Any] = {"datasets": [{"name": "npz", "path": "own.npz"}], "defenses": ["identity"]}
    for first, guesses in ((1, True), (0, False)):
        write_npz(tmp_path / "own.npz", first, classes=11)
        records, board = run(tmp_path, target, **keys)
        assert raised(records) == raised(board) == [guesses]
        assert board["rank"].isna().all() == guesses
        (warning,) = warnings_for(tmp_path)
        assert f"no images of class 'class-{0 if first else 10}', of 11 classes" in warning


def test_labels_that_begin_at_1_without_class_names_are_refused(tmp_path: Path) -> None:
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


def test_a_class_without_test_images_is_named(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", 0, classes=10)
    with np.load(tmp_path / "own.npz") as file:
        arrays = dict(file)
    kept = arrays["y_test"] != 3
    arrays |= {"x_test": arrays["x_test"][kept], "y_test": arrays["y_test"][kept]}
    np.savez(tmp_path / "own.npz", **arrays)
    (warning,) = warnings_for(tmp_path)
    assert "no test images of class 'class-3', of 10 classes" in warning


def test_a_data_set_with_images_of_every_class_causes_no_warning(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", 0, classes=None)
    assert not warnings_for(tmp_path)


def outcomes(right: int, wrong: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(right + wrong) % classes
    predicted = np.where(np.arange(right + wrong) < right, labels, (labels + 1) % classes)
    return predicted, labels


@pytest.mark.parametrize(
    ("right", "wrong", "classes", "guesses"),
    [
        (0, 6, 10, True),  # six images, all wrong, are enough
        (0, 5, 10, False),
        (1, 0, 10, False),
        (10, 90, 10, True),
        (20, 80, 10, False),  # weak, but better than chance
        (3, 7, 10, False),
        (0, 100, 2, True),  # labels exchanged
        (50, 50, 2, True),
        (60, 40, 2, False),
        (1, 99, 1000, True),
        (3, 97, 1000, False),
        (1, 7, 10, False),  # with one right it takes nine images
        (1, 8, 10, True),
        (0, 0, 10, False),
    ],
)
def test_chance_is_distinguished_from_weakness(right: int, wrong: int, classes: int, guesses: bool) -> None:
    assert at_chance(*outcomes(right, wrong, classes), classes) == guesses


def test_one_prediction_for_all_images_is_chance_however_often_it_is_right() -> None:
    labels = np.repeat([0, 1], [80, 20])
    assert at_chance(np.zeros(100, dtype=int), labels, 10)
    assert not at_chance(np.zeros(80, dtype=int), labels[:80], 10)  # only one class was shown


def test_guesses_by_class_frequency_are_chance() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [90, 10])
    for classes in (2, 10):
        assert at_chance(np.zeros(100, dtype=int), labels, classes)
    one_else = np.where(np.arange(100) == 5, 1, 0)
    assert at_chance(one_else, labels, 2)
    labels = random.choice(3, size=300, p=[0.7, 0.2, 0.1])
    assert at_chance(random.permutation(labels), labels, 3)
    labels = random.choice(3, size=300, p=[0.45, 0.45, 0.1])
    assert at_chance(random.permutation(labels), labels, 10)


def test_a_weak_net_on_rare_classes_is_not_at_chance() -> None:
    labels = np.repeat([0, 1], [990, 10])
    finds_two = np.zeros(1000, dtype=int)
    finds_two[[3, 4, 991, 992]] = 1  # two false alarms
    assert not at_chance(finds_two, labels, 2)
    weak = np.where(np.arange(1000) % 10 < 4, 0, np.arange(1000) % 10)
    assert not at_chance(weak, np.zeros(1000, dtype=int), 10)  # images of one class show no guessing


def confusion(random: np.random.Generator, classes: int, accuracy: float, *, pairs: bool) -> np.ndarray:
    """Confusion matrix of a trained net (true class, prediction); the right class is the most frequent."""
    share = np.zeros((classes, classes))
    for true in range(classes):
        right = np.clip(random.normal(accuracy, 0.1), 0.15, 0.99)
        wrong = random.dirichlet(np.full(classes - 1, 0.5))  # a few likely mistakes
        share[true] = (1 - right) * np.insert(wrong, true, 0)
        share[true, true] = right
        most = share[true].argmax()
        share[true, [true, most]] = share[true, [most, true]]
    for one, other in ((4, 9), (9, 4), (0, 6), (6, 0)) if pairs else ():  # such as shirt and T-shirt
        share[one] = 0.05 / (classes - 2)
        share[one, [one, other]] = 0.5, 0.45
    return share


def draw(
    random: np.random.Generator, share: np.ndarray, n: int, *, even: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    classes = len(share)
    frequencies = np.full(classes, 1 / classes) if even else random.dirichlet(np.full(classes, 0.7))
    labels = random.choice(classes, size=n, p=frequencies)
    above = random.random(n)[:, None] > share.cumsum(axis=1)[labels]
    return np.minimum(above.sum(axis=1), classes - 1), labels


@pytest.mark.parametrize("n", [8, 60, 100, 300, 1000])
def test_weak_nets_are_not_in_doubt(n: int) -> None:
    random, alarms, runs = np.random.default_rng(n), np.zeros(2), 0
    for accuracy in (0.4, 0.6, 0.8, 0.95):
        for pairs in (False, True):
            for even in (False, True):
                for _ in range(25):
                    share = confusion(random, 10, accuracy, pairs=pairs)
                    predicted, labels = draw(random, share, n, even=even)
                    alarms += at_chance(predicted, labels, 10), bool(exchanged_classes(predicted, labels))
                    runs += 1
    assert (alarms / runs < 0.01).all()


@pytest.mark.parametrize(("n", "power"), [(60, 0.1), (100, 0.7), (300, 0.98), (1000, 0.98)])
def test_two_exchanged_classes_of_ten_are_found(n: int, power: float) -> None:
    random, found = np.random.default_rng(n), 0
    for _ in range(100):
        predicted, labels = draw(random, confusion(random, 10, 0.95, pairs=False), n)
        exchanged = np.array([1, 0, *range(2, 10)])[predicted]
        found += exchanged_classes(exchanged, labels) == {0: 1, 1: 0}
    assert found >= 100 * power


def test_a_folder_of_numbered_classes_sorted_as_text() -> None:
    order = np.array(sorted(range(10), key=lambda number: str(number + 1)))
    labels = np.arange(60) % 10
    predicted = np.argsort(order)[labels]
    assert at_chance(predicted, labels, 10)
    assert set(exchanged_classes(predicted, labels)) == set(np.flatnonzero(order != np.arange(10)))
    for n in (3, 5):  # too few to distinguish chance from a weak net
        assert not at_chance(predicted[:n], labels[:n], 10)


def test_a_class_unknown_to_the_net_shifts_the_later_classes() -> None:
    labels = np.arange(100) % 10
    predicted = np.where(labels == 5, 3, np.where(labels > 5, labels - 1, labels))
    assert exchanged_classes(predicted, labels) == {5: 3, 6: 5, 7: 6, 8: 7, 9: 8}


def test_merged_classes_are_not_exchanged() -> None:
    labels = np.repeat(np.arange(10), 100)
    merged = np.where(labels % 2 == 0, labels, labels - 1)
    assert exchanged_classes(merged, labels) == {}
    assert exchanged_classes(labels[:0], labels[:0]) == {}
