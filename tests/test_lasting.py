"""Results last: a file's content names them, and an entry of another key is never taken for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from benchmark.display import Silent
from benchmark.records import TIMINGS
from benchmark.runs import prepare, run_prepared
from benchmark.tasks import Task

PLUGIN = """
import numpy as np
import torch

from benchmark.plugin import Config, FilePath, file
from defenses.contract import Defense, defense


class Weighted(Config):
    weights: FilePath = file()


@defense("weighted")
class Weights(Defense[Weighted]):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.factor = float(np.load(config.weights))

    def purify(self, x, noise):
        return (self.factor * x).clamp(0, 1)
"""


class Diary(Silent):
    """Counts what is done, and keeps what is said."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.said: list[str] = []

    def finished(self, task: Task, seconds: float) -> None:
        self.done[f"{task.kind} {task.label}"] += 1

    def warn(self, message: str) -> None:
        self.said.append(message)


def grid(**keys: Any) -> dict[str, Any]:
    return {
        "name": "lasting",
        "datasets": [{"name": "digits", "n": 20}],
        "targets": ["nearest-mean"],
        "source": "target",
        "defenses": ["identity"],
        "attacks": [{"name": "pgd", "eps": 0.2, "steps": 3}],
        "threats": ["white-box"],
    } | keys


def run(
    source: Path | Mapping[str, Any], tmp_path: Path, *plugins: Path
) -> tuple[Diary, list[dict[str, Any]]]:
    """What was done, and the records less the times that they took."""
    diary = Diary()
    prepared = prepare(source, diary, store=str(tmp_path / "store"), plugins=plugins, device="cpu")
    records = run_prepared(prepared, diary, tmp_path / "out").records
    assert all(row["status"] == "ok" for row in records), [row["reason"] for row in records]
    return diary, [{name: row[name] for name in row if name not in TIMINGS} for row in records]


@pytest.fixture
def in_folder(constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Path]]:
    """A grid in a folder of its own, beside the file that it names; the run begins somewhere else."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "weighted.py").write_text(PLUGIN)
    np.save(folder / "factor.npy", np.float32(1.0))
    defenses = ["identity", {"name": "weighted", "weights": "factor.npy"}]
    with (folder / "grid.yaml").open("w") as file:
        YAML().dump(grid(defenses=defenses), file)
    monkeypatch.chdir(tmp_path)
    return folder, [constructed, folder / "weighted.py"]


def test_a_file_overwritten_renews_what_rests_on_it_and_nothing_else(
    in_folder: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, plugins = in_folder
    _, before = run(folder / "grid.yaml", tmp_path, *plugins)
    again, same = run(folder / "grid.yaml", tmp_path, *plugins)
    assert not again.done
    assert same == before
    np.save(folder / "factor.npy", np.float32(0.0))
    diary, after = run(folder / "grid.yaml", tmp_path, *plugins)
    assert {name.partition(" ")[2] for name in diary.done} == {"weighted", "pgd"}
    assert diary.done["score weighted"] == 1
    errors = [[row["error"] for row in rows if row["defense"] == "weighted"] for rows in (before, after)]
    assert errors[0] != errors[1]  # all of an image is lost now
    assert after[0] == before[0]
    assert before[1]["key"] != after[1]["key"]


def test_the_place_of_a_file_does_not_count(in_folder: tuple[Path, list[Path]], tmp_path: Path) -> None:
    folder, plugins = in_folder
    run(folder / "grid.yaml", tmp_path, *plugins)
    folder.rename(tmp_path / "elsewhere")
    moved = [plugins[0], tmp_path / "elsewhere" / "weighted.py"]
    diary, _ = run(tmp_path / "elsewhere" / "grid.yaml", tmp_path, *moved)
    assert not diary.done


def test_a_file_that_is_missing_is_named_with_where_it_is_looked_for(
    in_folder: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, plugins = in_folder
    (folder / "factor.npy").unlink()
    with pytest.raises(
        Exception, match=r"defense weighted: .*'factor\.npy' of the parameter weights"
    ) as caught:
        run(folder / "grid.yaml", tmp_path, *plugins)
    assert str(folder) in str(caught.value)


def test_entries_exchanged_between_two_keys_are_set_aside_and_computed_again(
    constructed: Path, tmp_path: Path
) -> None:
    source = grid(defenses=["identity", "median", "jpeg"])
    _, before = run(source, tmp_path, constructed)
    exchanged = Counter[str]()
    for kind in sorted((tmp_path / "store").iterdir()):
        entries = sorted(kind.glob("*/*.json"))
        for one, other in zip(entries[::2], entries[1::2], strict=False):
            contents = one.read_text(), other.read_text()
            one.write_text(contents[1])
            other.write_text(contents[0])
            exchanged[kind.name] += 2
    assert exchanged.keys() >= {"craft", "purify", "score", "train-bpda-network", "gradient-probe"}
    diary, after = run(source, tmp_path, constructed)
    assert after == before
    assert any("score/" in message and "set aside" in message for message in diary.said)
    for kind in ("score", "gradient-probe", "consistency-check"):
        for path in (tmp_path / "store" / kind).rglob("*.json"):
            assert json.loads(path.read_text())["key"] == path.stem
