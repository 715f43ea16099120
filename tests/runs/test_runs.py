"""Runs: which results are computed again and which are reused, and how faults are reported."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest
import torch

from benchmark.errors import UserError
from benchmark.execution.observer import Silent
from benchmark.results.columns import RECORD_COLUMNS
from benchmark.results.records import TIMINGS
from benchmark.runs import CompletedRun, execute_run, plan_run
from tests.conftest import Runner

GRID = {
    "name": "resume",
    "datasets": [{"name": "digits", "n": 120}],
    "targets": ["nearest-mean"],
    "defenses": ["identity", "shift"],
    "source": "target",
    "attacks": [{"name": "fgsm", "eps": [0.05, 0.1]}, {"name": "pgd", "eps": 0.1, "steps": 5}],
    "threats": ["black-box", "white-box"],
}


def _run(grid: dict, plugin: Path, store: Path, out: Path, device: str = "auto") -> CompletedRun:
    observer = Silent()
    planned = plan_run(grid, observer, store=str(store), plugins=[plugin], device=device)
    return execute_run(planned, observer, out)


def _untimed_records(out: Path) -> pd.DataFrame:
    """The records without timings, which differ between two computations."""
    return pd.read_csv(out / "records.csv").drop(columns=list(TIMINGS))


@pytest.fixture(scope="module")
def once(constructed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedRun]:
    """A store with the results of the grid, which no test changes, and the completed run."""
    folder = tmp_path_factory.mktemp("once")
    return folder / "store", _run(GRID, constructed, folder / "store", folder / "out")


@pytest.fixture
def first(once: tuple[Path, CompletedRun], tmp_path: Path) -> CompletedRun:
    """The completed run of the grid, with a copy of its store in `tmp_path / "store"`."""
    store, completed = once
    shutil.copytree(store, tmp_path / "store")
    return completed


def test_the_second_run_does_nothing_and_writes_the_same_bytes(
    constructed: Path, first: CompletedRun, tmp_path: Path
) -> None:
    second = _run(GRID, constructed, tmp_path / "store", tmp_path / "out")
    assert first.execution.done["craft"] > 0
    assert second.execution.done == {}
    for name in ("records.csv", "tables.md", "leaderboard.csv"):
        assert (first.out / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_fresh_store_gives_the_same_records_except_timings(
    constructed: Path, first: CompletedRun, tmp_path: Path
) -> None:
    again = _run(GRID, constructed, tmp_path / "fresh", tmp_path / "out")
    assert again.execution.done == first.execution.done
    pd.testing.assert_frame_equal(_untimed_records(first.out), _untimed_records(tmp_path / "out"))


def test_adding_a_defense_crafts_no_black_box_image_again(constructed: Path, tmp_path: Path) -> None:
    grid = GRID | {"threats": ["black-box"]}
    _run(grid, constructed, tmp_path / "store", tmp_path / "out")
    more = _run(
        grid | {"defenses": ["identity", "shift", "median"]},
        constructed,
        tmp_path / "store",
        tmp_path / "out",
    )
    assert "craft" not in more.execution.done
    assert more.execution.done["purify"] > 0


def test_changing_an_infer_field_retrains_nothing(
    constructed: Path, first: CompletedRun, tmp_path: Path
) -> None:
    scaled = GRID | {"defenses": [{"name": "shift", "scale": 0.9}]}
    again = _run(scaled, constructed, tmp_path / "store", tmp_path / "out")
    assert "train-defense" not in again.execution.done
    assert again.execution.done["purify"] > 0


def test_changing_a_train_field_trains_again(constructed: Path, first: CompletedRun, tmp_path: Path) -> None:
    stronger = GRID | {"defenses": [{"name": "shift", "strength": 0.2}]}
    again = _run(stronger, constructed, tmp_path / "store", tmp_path / "out")
    assert again.execution.done["train-defense"] == 1


def test_a_smaller_n_is_a_prefix_and_reuses_whole_shards(
    constructed: Path, first: CompletedRun, tmp_path: Path
) -> None:
    small = GRID | {"datasets": [{"name": "digits", "n": 100}]}
    completed = _run(small, constructed, tmp_path / "store", tmp_path / "small")
    assert completed.execution.done == {}
    large_rows = pyarrow.parquet.read_table(first.out / "outcomes.parquet").to_pandas()
    small_rows = pyarrow.parquet.read_table(tmp_path / "small" / "outcomes.parquet").to_pandas()
    assert small_rows["index"].max() == 99
    assert small_rows["adversarial"].tolist() == large_rows[large_rows["index"] < 100]["adversarial"].tolist()


def test_records_do_not_depend_on_which_part_of_a_sweep_was_stored(constructed: Path, tmp_path: Path) -> None:
    """A random defense draws noise during an attack: extending a sweep must not change the draws."""
    grid = GRID | {"defenses": ["noisy"], "threats": ["white-box"]}
    whole = grid | {"attacks": [{"name": "fgsm", "eps": [0.03, 0.05, 0.07]}]}
    part = grid | {"attacks": [{"name": "fgsm", "eps": [0.07]}]}
    _run(whole, constructed, tmp_path / "one", tmp_path / "a")
    _run(part, constructed, tmp_path / "two", tmp_path / "b")
    _run(whole, constructed, tmp_path / "two", tmp_path / "b")
    first, second = (_untimed_records(tmp_path / name) for name in "ab")
    pd.testing.assert_frame_equal(first, second)


def test_a_sweep_shares_one_gradient(constructed: Path, tmp_path: Path) -> None:
    sweep = GRID | {"attacks": [{"name": "fgsm", "eps": [0.02, 0.05, 0.1]}], "threats": ["black-box"]}
    _run(sweep, constructed, tmp_path / "store", tmp_path / "out")
    records = pd.read_csv(tmp_path / "out" / "records.csv")
    assert (records["forwards"] == 1).all()
    assert (records["backwards"] == 1).all()


def test_passes_of_pgd_are_counted(constructed: Path, tmp_path: Path) -> None:
    grid = GRID | {
        "attacks": [{"name": "pgd", "eps": 0.1, "steps": 5, "restarts": 2}],
        "defenses": ["round8"],
    }
    _run(grid, constructed, tmp_path / "store", tmp_path / "out")
    records = pd.read_csv(tmp_path / "out" / "records.csv").set_index("threat")
    # two restarts of five steps, and one more forward pass each to judge the last iterate
    assert records.loc["black-box", "forwards"] == 12
    assert records.loc["black-box", "backwards"] == 10
    assert records.loc["black-box", "purifies"] == 0
    # the routes target-only, exact, both BPDA and bank with two restarts each; the start from a target-only
    # image has one
    assert records.loc["white-box", "backwards"] == 55
    assert records.loc["white-box", "purifies"] == 12 + 12 + 12 + 6


@pytest.mark.parametrize(
    ("defense", "reason"),
    [
        ("returns-nan", "values outside [0, 1]: from nan"),
        ("returns-shape", "returned shape"),
        ("returns-range", "values outside [0, 1]"),
        ("writes-input", "changed its input in place"),
        ("raises", "out of purifier fluid (toy.py:"),
        ("exits", "raised SystemExit"),
        ("hidden-randomness", "is random but does not declare"),
        ("diverges", "loss is nan in step 3 of 10"),
    ],
)
def test_a_faulty_defense_fails_only_its_own_cells(small_run: Runner, defense: str, reason: str) -> None:
    records = small_run(defenses=["identity", defense])
    faulty = records[records["defense"] == defense]
    assert (faulty["status"] == "failed").all()
    assert faulty["error"].isna().all()
    assert faulty["reason"].str.contains(reason, regex=False).all()
    assert (records[records["defense"] == "identity"]["status"] == "ok").all()


def test_a_defense_that_writes_into_memory_changes_no_other_row(constructed: Path, tmp_path: Path) -> None:
    alone = _run(GRID | {"defenses": ["identity"]}, constructed, tmp_path / "one", tmp_path / "a")
    beside = GRID | {"defenses": ["writes-memory", "identity"]}
    _run(beside, constructed, tmp_path / "two", tmp_path / "b")
    records = pd.read_csv(tmp_path / "b" / "records.csv")
    errors = records[records["defense"] == "identity"]["error"].tolist()
    assert errors == pytest.approx([row["error"] for row in alone.records], abs=1e-8)


def test_a_training_that_changes_its_source_changes_no_row(constructed: Path, tmp_path: Path) -> None:
    completed = _run(GRID | {"defenses": ["ruins-source"]}, constructed, tmp_path / "store", tmp_path / "out")
    assert all(row["clean_error_target"] < 0.3 for row in completed.records)


def test_two_settings_of_a_data_set_are_two_data_sets(constructed: Path, tmp_path: Path) -> None:
    datasets = [{"name": "dimmed", "n": 20}, {"name": "dimmed", "n": 20, "light": 0.1}]
    grid = GRID | {"datasets": datasets, "defenses": ["identity"]}
    completed = _run(grid, constructed, tmp_path / "store", tmp_path / "out")
    names = {row["dataset"] for row in completed.records}
    assert names == {"dimmed", 'dimmed {"light":0.1}'}
    assert set(pd.read_csv(tmp_path / "out" / "leaderboard.csv")["dataset"]) == names
    assert all(name in (tmp_path / "out" / "tables.md").read_text() for name in names)


def test_a_defense_may_keep_the_default_source_if_the_grid_names_the_target(
    constructed: Path, tmp_path: Path
) -> None:
    defenses = ["shift", {"name": "shift", "source": "default"}]
    grid = GRID | {"defenses": defenses}
    planned = plan_run(grid, Silent(), store=str(tmp_path), plugins=[constructed])
    configs = {cell.identity["defense_config"] for cell in planned.plan.cells}
    assert {'"source":"target"' in config for config in configs} == {True, False}
    roles = {cell.purifier.parts[0].training.source.role for cell in planned.plan.cells}
    assert roles == {"target", "source"}


def test_a_cell_of_two_blocks_is_planned_once(constructed: Path, tmp_path: Path) -> None:
    block = {name: value for name, value in GRID.items() if name != "name"}
    plans = {}
    for times in (1, 2):
        more = [block | {"attacks": [{"name": "fgsm", "eps": [0.1, 0.2]}]}] * (times - 1)
        grid = {"name": "blocks", "blocks": [block, *more]}
        plans[times] = plan_run(grid, Silent(), store=str(tmp_path), plugins=[constructed]).plan
    keys = [cell.key for cell in plans[2].cells]
    assert len(set(keys)) == len(keys)
    added = [cell for cell in plans[2].cells if cell.key not in {cell.key for cell in plans[1].cells}]
    assert {cell.attack.eps for cell in added} == {0.2}


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("grid", [GRID, {}], ids=["planned", "refused"])
def test_planning_leaves_the_garbage_collector_as_it_was(
    constructed: Path, tmp_path: Path, grid: dict, on: bool
) -> None:
    if not on:
        gc.disable()
    try:
        with suppress(UserError):
            plan_run(grid, Silent(), store=str(tmp_path), plugins=[constructed])
        assert gc.isenabled() == on
    finally:
        gc.enable()


def test_a_missing_intermediate_result_is_not_computed_again(
    constructed: Path, first: CompletedRun, tmp_path: Path
) -> None:
    for folder in ("craft", "purify", "train-target"):
        shutil.rmtree(tmp_path / "store" / folder)
    second = _run(GRID, constructed, tmp_path / "store", tmp_path / "out")
    assert second.execution.done == {}
    assert not (tmp_path / "store" / "craft").exists()
    assert (first.out / "records.csv").read_bytes() == (tmp_path / "out" / "records.csv").read_bytes()


@pytest.mark.parametrize(
    ("attack", "reason"), [("leaves-ball", "left the ball"), ("crashes", "no step size")]
)
def test_a_faulty_attack_is_a_failed_cell_and_not_robustness(
    small_run: Runner, attack: str, reason: str
) -> None:
    records = small_run(attacks=[attack])
    assert (records["status"] == "failed").all()
    assert records["error"].isna().all()
    assert records["reason"].str.contains(reason).all()


def test_a_failed_training_leaves_no_weights(constructed: Path, tmp_path: Path) -> None:
    completed = _run(GRID | {"defenses": ["diverges"]}, constructed, tmp_path / "store", tmp_path / "out")
    assert len(completed.failed) == len(completed.records)
    assert not list((tmp_path / "store").glob("train-defense/diverges/*"))


def test_a_failed_cell_is_tried_again(constructed: Path, tmp_path: Path) -> None:
    grid = GRID | {"defenses": ["raises"], "threats": ["black-box"]}
    for _ in range(2):
        completed = _run(grid, constructed, tmp_path / "store", tmp_path / "out")
        assert all(row["status"] == "failed" for row in completed.records)


def test_a_damaged_result_is_computed_again(constructed: Path, first: CompletedRun, tmp_path: Path) -> None:
    for folder in ("score", "craft", "train-target"):
        for payload in (tmp_path / "store" / folder).glob("*/*.[sp]a*"):
            payload.write_bytes(payload.read_bytes()[:-20] + b"x" * 20)
    _run(GRID, constructed, tmp_path / "store", tmp_path / "out")
    pd.testing.assert_frame_equal(_untimed_records(first.out), _untimed_records(tmp_path / "out"))


def test_a_killed_run_gives_the_same_records_when_it_continues(constructed: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.json"  # JSON is YAML
    grid = GRID | {"attacks": [{"name": "pgd", "eps": 0.1, "steps": 20 + i} for i in range(4)]}
    path.write_text(json.dumps(grid))
    store, out = tmp_path / "store", tmp_path / "killed"
    command = [sys.executable, "-m", "benchmark", "run", "--grid", str(path), "--store", str(store)]
    command += ["--plugin", str(constructed), "--device", "cpu", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(store.glob("craft/*/*.json"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "records.csv").exists()
    again = _run(grid, constructed, store, out, device="cpu")
    whole = _run(grid, constructed, tmp_path / "fresh", tmp_path / "whole", device="cpu")
    assert 0 < again.execution.done["craft"] < whole.execution.done["craft"]
    first, second = (_untimed_records(path) for path in (out, tmp_path / "whole"))
    pd.testing.assert_frame_equal(first, second)


def test_the_files_of_a_run(small_run: Runner, tmp_path: Path) -> None:
    records = small_run(defenses=["identity", "median"])
    out = tmp_path / "out"
    assert tuple(records.columns) == RECORD_COLUMNS
    outcomes = pyarrow.parquet.read_table(out / "outcomes.parquet").to_pandas()
    assert len(outcomes) == 60 * len(records)
    for key, rows in outcomes.groupby("key", observed=True):
        recorded = records.loc[records["key"] == key, "error"].item()
        assert recorded == pytest.approx((rows["adversarial"] != rows["label"]).mean())
    run = json.loads((out / "run.json").read_text())
    assert run["versions"]["torch"] == torch.__version__ or run["versions"]["torch"]
    assert run["grid"]["name"] == "small"
    assert (out / "tables.md").read_text().startswith("# small")


def test_the_python_function_refuses_a_bad_grid_like_the_command(small_run: Runner) -> None:
    from benchmark.errors import UserError

    with pytest.raises(UserError, match="did you mean 'median'"):
        small_run(defenses=["medain"])
