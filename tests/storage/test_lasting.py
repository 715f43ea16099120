"""Stored results stay valid: keys depend on file contents, and an entry of another key is never used."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from benchmark.execution.observer import Silent
from benchmark.plan.tasks import Task
from benchmark.results.records import TIMINGS
from benchmark.runs import execute_run, plan_run

PLUGIN = """
import numpy as np
import torch

from benchmark.plugins.plugin import Config, FilePath, file
from benchmark.api.defense import Defense, defense


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


class Log(Silent):
    """Counts finished tasks and records warnings."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.warnings: list[str] = []

    def finished(self, task: Task, seconds: float) -> None:
        self.done[f"{task.kind} {task.label}"] += 1

    def warn(self, message: str) -> None:
        self.warnings.append(message)


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


def run(source: Path | Mapping[str, Any], tmp_path: Path, *plugins: Path) -> tuple[Log, list[dict[str, Any]]]:
    """Run a grid; returns the log, and the records without durations."""
    log = Log()
    planned = plan_run(source, log, store=str(tmp_path / "store"), plugins=plugins, device="cpu")
    execute_run(planned, log, tmp_path / "out")
    with (tmp_path / "out" / "records.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert all(row["status"] == "ok" for row in records), [row["reason"] for row in records]
    return log, [{name: row[name] for name in row if name not in TIMINGS} for row in records]


@pytest.fixture
def grid_folder(
    constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[Path]]:
    """A folder with a grid and the file that it names, but not the current one; and the plugin files."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "weighted.py").write_text(PLUGIN)
    np.save(folder / "factor.npy", np.float32(1.0))
    defenses = ["identity", {"name": "weighted", "weights": "factor.npy"}]
    with (folder / "grid.yaml").open("w") as file:
        YAML().dump(grid(defenses=defenses), file)
    monkeypatch.chdir(tmp_path)
    return folder, [constructed, folder / "weighted.py"]


def test_after_a_change_of_a_file_only_dependent_results_are_computed(
    grid_folder: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, plugins = grid_folder
    _, before = run(folder / "grid.yaml", tmp_path, *plugins)
    again, same = run(folder / "grid.yaml", tmp_path, *plugins)
    assert not again.done
    assert same == before
    np.save(folder / "factor.npy", np.float32(0.0))
    log, after = run(folder / "grid.yaml", tmp_path, *plugins)
    assert {name.partition(" ")[2] for name in log.done} == {"weighted", "pgd"}
    assert log.done["score weighted"] == 1
    errors = [[row["error"] for row in rows if row["defense"] == "weighted"] for rows in (before, after)]
    assert errors[0] != errors[1]  # every image is black now
    assert after[0] == before[0]
    assert before[1]["key"] != after[1]["key"]


def test_keys_do_not_depend_on_the_path_of_a_file(
    grid_folder: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, plugins = grid_folder
    run(folder / "grid.yaml", tmp_path, *plugins)
    folder.rename(tmp_path / "elsewhere")
    moved = [plugins[0], tmp_path / "elsewhere" / "weighted.py"]
    log, _ = run(tmp_path / "elsewhere" / "grid.yaml", tmp_path, *moved)
    assert not log.done


def test_a_missing_file_is_named_with_its_folder(
    grid_folder: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, plugins = grid_folder
    (folder / "factor.npy").unlink()
    with pytest.raises(
        Exception, match=r"defense weighted: .*'factor\.npy' of the parameter weights"
    ) as caught:
        run(folder / "grid.yaml", tmp_path, *plugins)
    assert str(folder) in str(caught.value)


def test_swapped_entries_of_two_keys_are_set_aside_and_computed_again(
    constructed: Path, tmp_path: Path
) -> None:
    source = grid(defenses=["identity", "median", "jpeg"])
    _, before = run(source, tmp_path, constructed)
    swapped = Counter[str]()
    for kind in sorted((tmp_path / "store").iterdir()):
        entries = sorted(kind.glob("*/*.json"))
        for one, other in zip(entries[::2], entries[1::2], strict=False):
            contents = one.read_text(), other.read_text()
            one.write_text(contents[1])
            other.write_text(contents[0])
            swapped[kind.name] += 2
    assert swapped.keys() >= {"craft", "purify", "score", "train-bpda-network", "gradient-probe"}
    log, after = run(source, tmp_path, constructed)
    assert after == before
    assert any("score/" in message and "set aside" in message for message in log.warnings)
    for kind in ("score", "gradient-probe", "consistency-check"):
        for path in (tmp_path / "store" / kind).rglob("*.json"):
            assert json.loads(path.read_text())["key"] == path.stem
