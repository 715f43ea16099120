"""Putting the rows of a run on the published leaderboard, and taking them back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.errors import Problem, UserError
from benchmark.evidence import grouped
from benchmark.output import open_out, write_text
from benchmark.publishing.boards import (
    RUNS,
    contest,
    file_name,
    identity,
    ranked,
    read_board,
    write_board,
)
from benchmark.publishing.entries import FILES, Run
from benchmark.records import Row

_HISTORY = "history.jsonl"

_APART = ("rank", "run", "commit", "purify_ms")
"""What may differ between two computations of the same row."""


@dataclass(frozen=True)
class Change:
    """What happens to one file: the rows that go and those that come in their place."""

    file: str
    before: list[Row]
    after: list[Row]


def compared(board: Path, rows: Sequence[Row]) -> list[Change]:
    """What publishing the rows changes, file by file; a row that stands there already changes nothing.

    Raises:
        UserError: A file of the board is none, or rows would be ranked beside others that met other attacks,
            other images, or another number of them.
    """
    changes, problems = [], []
    for members in grouped(rows, file_name):
        file = file_name(members[0])
        there = {identity(row): row for row in read_board(board / file)}
        mine = {identity(row): row for row in members}
        kept = [row for key, row in there.items() if key not in mine]
        problems += [Problem(text, file=str(board / file)) for text in _mixed(board, kept, members)]
        new = {key: row for key, row in mine.items() if key not in there or not _same(row, there[key])}
        changes.append(Change(file, [there[key] for key in new if key in there], list(new.values())))
    if problems:
        raise UserError(problems)
    return changes


def _mixed(board: Path, kept: Sequence[Row], new: Sequence[Row]) -> Iterator[str]:
    for group in grouped(new, contest):
        beside = [row for row in kept if contest(row) == contest(group[0])]
        others = [row for row in beside if row["protocol"] != group[0]["protocol"]]
        if others:
            yield (
                f"{_names(others)} met other attacks or other images than {_names(group)}: they cannot be "
                f"ranked beside each other. Run one grid with all of them, or the grid of {others[0]['run']} "
                f"(its run.json is in {board / RUNS / others[0]['run']}) with yours added"
            )
            continue
        sizes = {row["n"] for row in (*beside, *group) if row["bound"] == "found"}
        if len(sizes) > 1:
            names = f"{_names(beside)} and {_names(group)}"
            yield f"{names} are ranked on different numbers of images, {sorted(sizes)}"


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(row["defense"] for row in rows))


def told(board: Path, changes: Sequence[Change]) -> Iterator[str]:
    """The changes as lines: rows that come, go or differ, and ranks that move."""
    for change in changes:
        there = {identity(row): row for row in ranked(read_board(board / change.file))}
        will = {identity(row): row for row in ranked(_applied(list(there.values()), change))}
        lines = []
        for key, row in will.items():
            if key not in there:
                lines.append(f"  + {_line(row)}")
            elif not _same(row, there[key]):
                lines += [f"  - {_line(there[key])}", f"  + {_line(row)}"]
            elif row["rank"] != there[key]["rank"]:
                lines.append(f"    {row['defense']}: rank {_rank(there[key])} → {_rank(row)}")
        lines += [f"  - {_line(row)}" for key, row in there.items() if key not in will]
        yield change.file if lines else f"{change.file}: no change"
        yield from lines


def _same(row: Row, other: Row) -> bool:
    return all(row[name] == other[name] for name in row if name not in _APART)


def _line(row: Row) -> str:
    bound = "≥ " if row["bound"] == "≥" else ""
    error = "no error" if row["error"] is None else f"error {bound}{100 * row['error']:.1f} %"
    settings = "" if row["defense_config"] in ("{}", "") else f" {row['defense_config']}"
    flags = f" [{row['flags']}]" if row["flags"] else ""
    return f"{_rank(row):>2} {row['defense']}{settings} on {row['target']}: {error}, n {row['n']}{flags}"


def _rank(row: Row) -> str:
    return "–" if row["rank"] is None else str(row["rank"])


def publish(board: Path, run: Run, rows: Sequence[Row]) -> list[str]:
    """Put the rows on the board, with the run that they rest on; gives the changes as lines.

    Raises:
        UserError: As `compared`; or the board cannot be written.
    """
    with _locked(board):
        changes = compared(board, rows)
        lines = list(told(board, changes))
        changes = [change for change in changes if change.after]
        if not changes:
            return lines
        folder = board / RUNS / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (run.folder / name).is_file():
                shutil.copyfile(run.folder / name, folder / name)
        # The history first: what is interrupted after it can be undone.
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = {"date": date, "run": run.name, "changes": [asdict(change) for change in changes]}
        _write_history(board, [*_history(board), entry])
        for change in changes:
            write_board(board / change.file, _applied(read_board(board / change.file), change))
        return lines


def last(board: Path) -> tuple[list[Change], str]:
    """What undoing the last publication changes, and the run it was of.

    Raises:
        UserError: Nothing was published, or rows of it have been replaced since by other means.
    """
    history = _history(board)
    if not history:
        raise UserError(f"nothing to undo: {board / _HISTORY} has no entry")
    changes = []
    for entry in history[-1]["changes"]:
        change = Change(entry["file"], entry["after"], entry["before"])
        there = {identity(row): row for row in read_board(board / change.file)}
        for row in change.before:
            if not _same(there.get(identity(row), row), row):
                message = f"the row of {row['defense']} is not the one that was published last"
                raise UserError(Problem(message, file=str(board / change.file)))
        changes.append(change)
    return changes, history[-1]["run"]


def undo(board: Path) -> list[str]:
    """Take the last publication back; gives the changes as lines.

    Raises:
        UserError: As `last`; or the board cannot be written.
    """
    with _locked(board):
        changes, run = last(board)
        lines = list(told(board, changes))
        for change in changes:
            write_board(board / change.file, _applied(read_board(board / change.file), change))
        _write_history(board, _history(board)[:-1])
        if not any(row["run"] == run for file in board.glob("*.csv") for row in read_board(file)):
            shutil.rmtree(board / RUNS / run, ignore_errors=True)
        return lines


def _applied(rows: Sequence[Row], change: Change) -> list[Row]:
    touched = {identity(row) for row in (*change.before, *change.after)}
    return [*(row for row in rows if identity(row) not in touched), *change.after]


def _locked(board: Path) -> FileLock:
    """Whoever writes the board holds its lock: two at once would each lose the other's rows."""
    open_out(board)
    return FileLock(board / ".lock")


def _history(board: Path) -> list[dict[str, Any]]:
    path = board / _HISTORY
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{path} is not the history of a leaderboard: {error}") from error


def _write_history(board: Path, entries: Sequence[dict[str, Any]]) -> None:
    if entries:
        write_text(board / _HISTORY, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in entries))
    else:
        (board / _HISTORY).unlink(missing_ok=True)
