"""A run that finds its files up to date keeps them; whatever it rests on has changed, it writes them anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.execution.observer import Silent
from benchmark.results.external_images import ExternalEntry, add_external_entry
from benchmark.runs import CompletedRun, execute_run, plan_run
from studies import REPOSITORY

TOY = REPOSITORY / "tests" / "plugin_files" / "toy.py"
GRID: dict[str, Any] = {
    "name": "again",
    "datasets": [{"name": "digits", "n": 20}],
    "targets": ["nearest-mean"],
    "defenses": ["median", "gaussian-noise"],
    "attacks": [{"name": "uniform-noise", "eps": 0.1}],
    "threats": ["black-box"],
}


def run(folder: Path, out: str = "out", **keys: Any) -> CompletedRun:
    options = {key: keys.pop(key) for key in ("only", "sanity") if key in keys}
    planned = plan_run(GRID | keys, Silent(), store=f"{folder}/store", plugins=[TOY], device="cpu", **options)
    return execute_run(planned, Silent(), folder / out)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def as_read(row: dict[str, Any]) -> dict[str, Any]:
    """A record as `records.csv` has it."""
    values = {name: None if value == "" else value for name, value in row.items()}
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in values.items()}


def test_files_that_are_up_to_date_are_kept(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = content(tmp_path / "out")
    again = run(tmp_path)
    assert (first.unchanged, again.unchanged) == (False, True)
    assert content(tmp_path / "out") == before
    assert [as_read(row) for row in again.records] == [as_read(row) for row in first.records]
    assert not run(tmp_path, "other").unchanged


def _remove_score(folder: Path) -> None:
    next((folder / "store" / "score").glob("*/*.json")).unlink()


def _touch_score(folder: Path) -> None:
    os.utime(next((folder / "store" / "score").glob("*/*.json")), ns=(1, 1))


def _edit(folder: Path) -> None:
    path = folder / "out" / "records.csv"
    path.write_text(path.read_text().replace("median", "mediam"))


def _remove_board(folder: Path) -> None:
    (folder / "out" / "leaderboard.csv").unlink()


def _damage_note(folder: Path) -> None:
    (folder / "out" / "made-from.json").write_text("[" * 100_000)


def _add_external(folder: Path) -> None:
    add_external_entry(folder / "out", ExternalEntry("0" * 64, "1" * 64, "elsewhere"))


@pytest.mark.parametrize(
    "change", [_remove_score, _touch_score, _edit, _remove_board, _damage_note, _add_external]
)
def test_a_change_of_a_file_or_a_result_writes_all_files(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    run(tmp_path)
    board, records = ((tmp_path / "out" / name).read_bytes() for name in ("leaderboard.csv", "tables.md"))
    change(tmp_path)
    assert not run(tmp_path).unchanged
    assert (tmp_path / "out" / "leaderboard.csv").read_bytes() == board
    assert (tmp_path / "out" / "tables.md").read_bytes() == records
    assert run(tmp_path).unchanged


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "other"},
        {"defenses": ["median"]},
        {"sanity": "full"},
        {"only": {"defense": "median"}},
        {"resources": {"median": {"memory": 2}}},
    ],
)
def test_another_run_in_the_same_folder_writes_its_own_files(tmp_path: Path, keys: dict[str, Any]) -> None:
    run(tmp_path)
    assert not run(tmp_path, **keys).unchanged
    assert run(tmp_path, **keys).unchanged
    assert not run(tmp_path).unchanged


def test_a_run_with_a_failed_cell_is_tried_again(tmp_path: Path) -> None:
    failing = {"defenses": ["median", "raises"]}
    assert run(tmp_path, **failing).failed
    assert not run(tmp_path, **failing).unchanged
