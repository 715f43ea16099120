"""Ranks of the rows of a published file, which may come from several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.publishing.board_files import (
    BOARD_COLUMNS,
    board_group,
    rank_rows,
    read_board,
    row_identity,
    write_board,
)


def row(defense: str, error: float, bound: str = "found", **changed: Any) -> dict[str, Any]:
    plain = {"dataset": "mnist", "target": "net", "target_config": "{}", "threat": "white-box"}
    plain |= {"threat_config": "{}", "norm": "linf", "eps": 0.3, "defense_config": "{}"}
    values = {"defense": defense, "error": error, "bound": bound, "rank": 7}
    return dict.fromkeys(BOARD_COLUMNS) | plain | values | changed


def ranks(*rows: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(r["defense"], r["rank"]) for r in rank_rows(rows)]


def test_rows_are_ranked_by_error_and_equal_errors_share_a_rank() -> None:
    rows = [row("c", 0.5), row("a", 0.2), row("b", 0.2), row("d", 0.1)]
    assert ranks(*rows) == [("d", 1), ("a", 2), ("b", 2), ("c", 4)]
    assert [r["rank"] for r in rows] == [7] * 4  # the given rows stay as they are


def test_rows_in_doubt_have_no_rank_and_come_last() -> None:
    assert ranks(row("a", 0.1, "≥"), row("b", 0.5), row("c", 0.2)) == [("c", 1), ("b", 2), ("a", None)]


def test_each_attacker_target_and_ball_is_ranked_apart() -> None:
    others = [
        row("b", 0.5, **{name: value})
        for name, value in {
            "dataset": "cifar10",
            "target": "other",
            "target_config": '{"width":2}',
            "threat": "black-box",
            "threat_config": '{"eot":2}',
            "norm": "l2",
            "eps": 0.1,
        }.items()
    ]
    found = rank_rows([row("a", 0.1), *others])
    assert len(found) == 8
    assert {r["rank"] for r in found} == {1}
    assert len({board_group(r) for r in found}) == 8


def test_a_row_is_identified_by_its_group_and_its_defense() -> None:
    base = row("a", 0.1)
    assert row_identity(base) == row_identity(row("a", 0.9, "≥"))
    assert row_identity(base) != row_identity(row("b", 0.1))
    assert row_identity(base) != row_identity(row("a", 0.1, defense_config='{"std":1}'))
    assert board_group(base) == board_group(row("b", 0.1))


def test_a_published_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "board.csv"
    assert read_board(file) == []
    rows = [row("a", 0.5), row("b", 0.25, control=True, n=40, flags="'=x"), row("c", None, "≥")]
    write_board(file, rows)
    assert read_board(file) == rank_rows(rows)
    write_board(file, [])
    assert not file.exists()
    write_board(file, [])


def test_a_ranked_row_needs_an_error(tmp_path: Path) -> None:
    file = tmp_path / "board.csv"
    write_board(file, [row("a", 0.5), row("b", 0.25)])
    file.write_text(file.read_text().replace("0.25", ""))
    with pytest.raises(UserError, match=r"b on net, mnist, white-box linf 0\.3 has no error"):
        read_board(file)


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("0.5", "half", "error cannot be 'half'", 3),
        ("0.5", "inf", "error cannot be 'inf'", 3),
        ("0.5", "1_0", "error cannot be '1_0'", 3),
        (",40,", ",4.5,", "n cannot be '4.5'", 2),
        ("True", "yes", "control cannot be 'yes'", 2),
        (",40,", ",40,40,", "fields, not", 2),
        ("dataset,", "", "no column dataset", 1),
        ("dataset,target,", "target,dataset,", "the columns are in the wrong order", 1),
        ("dataset,", "data,", "no column dataset; unknown columns data", 1),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, message: str, line: int
) -> None:
    file = tmp_path / "board.csv"
    write_board(file, [row("a", 0.5), row("b", 0.25, control=True, n=40)])
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError) as caught:
        read_board(file)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.file, problem.line) == (str(file), line)
