"""Names from untrusted sources never lead out of their folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import UserError
from benchmark.files.names import child, name_fault
from benchmark.plan.grid import load_grid
from benchmark.plugins.registry import default_registry
from benchmark.publishing.board_checks import check_board
from benchmark.publishing.board_files import BOARD_COLUMNS, RUNS, file_name, read_board, slug, write_board
from benchmark.publishing.publication import undo_publication
from benchmark.publishing.published_run import Run, runs_in
from benchmark.storage.store import Address, Store
from studies import REPOSITORY

ODD = [
    *("", " ", ".", "..", ".hidden", "../up", "a/b", "a\\b", "/etc", "C:", "C:\\x", "a\x00b", "a\nb"),
    *("x" * 300, "é" * 101, "\udc80"),
]
PUBLISHED = REPOSITORY / "results" / "leaderboard"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A board with two runs and one row, which the entry of its history published."""
    folder = tmp_path / "board"
    row = next(row for row in read_board(sorted(PUBLISHED.glob("*.csv"))[0]) if not row["control"])
    row |= {"run": "mine"}
    for name in ("mine", "other"):
        (folder / RUNS / name).mkdir(parents=True)
        (folder / RUNS / name / "run.json").write_text(name)
    write_board(folder / file_name(row), [row])
    row |= {"rank": 1}
    entry = {"date": "", "run": "mine", "changes": [{"file": file_name(row), "going": [], "coming": [row]}]}
    (folder / "history.jsonl").write_text(json.dumps(entry) + "\n")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.tex").write_text("ten years")
    return folder


def history(board: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    entry = json.loads((board / "history.jsonl").read_text())
    change(entry)
    (board / "history.jsonl").write_text(json.dumps(entry) + "\n")


def files(folder: Path) -> dict[Path, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in found}


@pytest.mark.parametrize("name", [*ODD, None, 3, ["a"]])
def test_an_unsafe_name_is_refused(tmp_path: Path, name: object) -> None:
    assert name_fault(name)
    with pytest.raises(UserError, match="cannot name anything in"):
        child(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "half-on-digits", "a b", "=1", "x" * 200, "名前", "a..b", "null"])
def test_a_safe_name_is_a_path_in_the_folder(tmp_path: Path, name: str) -> None:
    assert child(tmp_path, name) == tmp_path / name


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    (tmp_path / "in" / "inner").symlink_to(tmp_path / "in")
    with pytest.raises(UserError, match="leads out of"):
        child(tmp_path / "in", "link")
    assert child(tmp_path / "in", "inner")


@pytest.mark.parametrize("name", [*ODD, None, 3])
def test_an_undo_changes_nothing_if_the_history_names_another_folder(
    board: Path, tmp_path: Path, name: object
) -> None:
    history(board, lambda entry: entry.update(run=name, changes=[]))
    before = files(tmp_path)
    with pytest.raises(UserError, match="is not the history of a leaderboard"):
        undo_publication(board)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["", "..", "../victim/thesis.tex", "history.jsonl", "other.csv", None])
def test_an_undo_writes_only_the_file_of_its_rows(board: Path, tmp_path: Path, name: Any) -> None:
    history(board, lambda entry: entry["changes"][0].update(file=name))
    before = files(tmp_path)
    with pytest.raises(UserError, match="is not the history of a leaderboard"):
        undo_publication(board)
    assert files(tmp_path) == before


def test_an_undo_moves_the_run_to_the_trash_without_overwriting(board: Path) -> None:
    again = (board / "history.jsonl").read_text()
    (row,) = read_board(next(board.glob("*.csv")))
    for number in (1, 2):
        lines = undo_publication(board)
        kept = [path.parent for path in (board / ".trash").glob("mine-*/run.json")]
        assert len(kept) == number
        assert not (board / RUNS / "mine").exists()
        assert any(f"the run is kept in {path}" in line for path in kept for line in lines)
        assert not list(board.glob("*.csv"))
        (board / RUNS / "mine").mkdir()
        (board / RUNS / "mine" / "run.json").write_text("again")
        write_board(board / file_name(row), [row])
        (board / "history.jsonl").write_text(again)
    assert {path.read_text() for path in board.glob(".trash/*/run.json")} == {"mine", "again"}
    assert (board / RUNS / "other" / "run.json").read_text() == "other"


@pytest.mark.parametrize("place", ["runs", "runs/mine", ".trash", ".lock"])
def test_an_undo_follows_no_link(board: Path, tmp_path: Path, place: str) -> None:
    if (board / place).is_dir():
        shutil.rmtree(board / place)
    (tmp_path / "victim" / "mine").mkdir()
    (tmp_path / "victim" / "mine" / "poem.txt").write_text("a poem")
    victim = tmp_path / "victim"
    (board / place).symlink_to(victim / "thesis.tex" if place == ".lock" else victim)
    before = files(victim)
    with pytest.raises(UserError, match="leads out of"):
        undo_publication(board)
    assert files(victim) == before


@pytest.mark.parametrize("name", ["..", "../mine", "/etc", ".hidden"])
def test_a_row_cannot_name_a_run_elsewhere(board: Path, name: str) -> None:
    path = next(board.glob("*.csv"))
    (row,) = read_board(path)
    with pytest.raises(UserError, match="cannot name anything"):
        runs_in(board / RUNS)(row | {"run": name})
    write_board(path, [row | {"run": name}])
    assert any("is not a valid name" in problem.message for problem in check_board(path, default_registry()))


def test_a_run_json_cannot_name_plugin_files_elsewhere(tmp_path: Path) -> None:
    about = {"name": "../../x", "grid": {}, "plugins": {"../../nets.py": "0"}}
    (tmp_path / "run.json").write_text(json.dumps(about))
    run = Run(tmp_path)
    assert name_fault(run.name) is None
    with pytest.raises(UserError, match="cannot name anything"):
        _ = run.plugins


def test_the_file_of_a_board_has_a_safe_name_for_any_rows(board: Path) -> None:
    (row,) = read_board(next(board.glob("*.csv")))
    for name in (*ODD[2:-1], "x" * 300):
        assert name_fault(file_name(row | {"dataset": name, "threat": name, "norm": name})) is None
    assert len(slug("x" * 300)) < 60
    assert set(BOARD_COLUMNS) >= set(row)


@pytest.mark.parametrize("name", ODD)
def test_the_name_of_a_grid_names_one_folder(name: str) -> None:
    with pytest.raises(UserError, match="name must be text that can name a folder"):
        load_grid({"name": name}, default_registry())


def test_a_plugin_cannot_be_named_like_a_path(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text('@defense("../../elsewhere")\nclass Own: ...\n')
    with pytest.raises(UserError, match="the name begins with a dot"):
        default_registry([path])


@pytest.mark.parametrize("payload", ["../../../victim.safetensors", "/victim", "", "other.safetensors"])
def test_an_entry_of_the_store_names_no_payload_elsewhere(tmp_path: Path, payload: str) -> None:
    victim = tmp_path / "victim.safetensors"
    victim.write_text("mine")
    warnings: list[str] = []
    store = Store(str(tmp_path / "store"), warnings.append)
    address = Address("checkpoint", "median", "0" * 64)
    store.put_tensors(address, {"x": torch.zeros(1)}, {})
    entry = tmp_path / "store" / f"{address}.json"
    (entry.parent / "other.safetensors").write_text("of another key")
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"payload": payload}))
    store.remove(address)
    assert store.get_tensors(address) is None
    assert victim.read_text() == "mine"
    assert (entry.parent / "other.safetensors").exists()
    assert "is damaged" in warnings[0]
