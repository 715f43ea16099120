"""CSV files in a spreadsheet: no text becomes a formula, and reading returns the text as written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmark.files.tables import escape_formula, unescape_formula, write_csv
from benchmark.publishing.board_files import BOARD_COLUMNS, file_name, read_rows, slug
from tests.conftest import Runner


@pytest.mark.parametrize("text", ["=1", "\n=1", " =1", "\ufeff=1", "'=1", "-x", "\uff1d1", "plain", "'plain"])
def test_escaping_is_undone_when_a_csv_is_read(text: str) -> None:
    assert unescape_formula(escape_formula(text)) == text
    assert escape_formula(text).startswith("'") or "plain" in text


def test_names_make_no_path_and_no_formula(tmp_path: Path) -> None:
    row = dict.fromkeys(BOARD_COLUMNS) | {"dataset": "../=x", "threat": "black-box", "norm": "l2", "eps": 1.5}
    assert "/" not in file_name(row)
    assert slug("a b") != slug("a_b")
    row |= {"defense": "=1+1", "explained": "'=as it was", "flags": "plain"}
    write_csv(tmp_path / "x.csv", BOARD_COLUMNS, [row])
    text = (tmp_path / "x.csv").read_text()
    assert ",=" not in text
    assert "'=1+1" in text
    assert read_rows(tmp_path / "x.csv", BOARD_COLUMNS) == ([row], [])


def test_no_field_of_a_run_is_a_formula(small_run: Runner, tmp_path: Path) -> None:
    small_run(defenses=["identity", "median"])
    for file in ("records.csv", "leaderboard.csv"):
        with (tmp_path / "out" / file).open(newline="") as lines:
            fields = [field for line in csv.reader(lines) for field in line]
        assert [field for field in fields if field.startswith(("=", "@", "+"))] == []
