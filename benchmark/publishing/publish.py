"""Putting the rows of a run on the published leaderboard, and taking them back."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.errors import Problem, UserError
from benchmark.evidence import grouped
from benchmark.file_names import child, inside, name_fault
from benchmark.output import open_out, write_text
from benchmark.publishing.boards import (
    RUNS,
    TRASH,
    about,
    file_name,
    identity,
    ranked,
    read_board,
    write_board,
)
from benchmark.publishing.contests import contest_problems, controls
from benchmark.publishing.run import FILES, PLUGINS, Run, runs_in
from benchmark.records import Row
from benchmark.registry import Registry
from benchmark.writing import copy_own

_HISTORY = "history.jsonl"

_APART = ("rank", "run", "commit", "purify_ms")
"""What may differ between two computations of the same row."""


@dataclass(frozen=True)
class Change:
    """What happens to one file: the rows that go and those that come in their place."""

    file: str
    going: list[Row]
    coming: list[Row]


def changes_of(board: Path, run: Run, rows: Sequence[Row], registry: Registry) -> list[Change]:
    """What publishing the rows changes, file by file; a row that stands there already changes nothing.

    Raises:
        UserError: A file of the board is none, or rows would be ranked beside others that met more attacks,
            other images, or another number of them.
    """
    changes, problems, needed = [], [], controls(registry)
    run_of = runs_in(board / RUNS, run)
    for members in grouped(rows, file_name):
        file = file_name(members[0])
        there = {identity(row): row for row in read_board(board / file)}
        new = {key: row for row in members if not _same(row, there.get(key := identity(row)))}
        change = Change(file, [there[key] for key in new if key in there], list(new.values()))
        after = _applied(list(there.values()), change)
        problems += [
            Problem(text, file=str(board / file)) for text in contest_problems(after, run_of, needed)
        ]
        changes.append(change)
    if problems:
        raise UserError(problems)
    return changes


def _same(row: Row, other: Row | None) -> bool:
    return other is not None and all(_equal(row[name], other[name]) for name in row if name not in _APART)


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are the same as far as a file keeps them."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-7, abs_tol=1e-8)
    return bool(one == other)


def told(board: Path, changes: Sequence[Change]) -> Iterator[str]:
    """The changes as lines: rows that come, go or differ, and ranks that move."""
    for change in changes:
        there = {identity(row): row for row in ranked(read_board(board / change.file))}
        will = {identity(row): row for row in ranked(_applied(list(there.values()), change))}
        lines = []
        settings = {(row["defense"], row["defense_config"]) for row in (*there.values(), *will.values())}
        several = {name for name, count in Counter(name for name, _ in settings).items() if count > 1}
        for key, row in will.items():
            if key not in there:
                lines.append(f"  + {_line(row, several)}")
            elif not _same(row, there[key]):
                lines += [f"  - {_line(there[key], several)}", f"  + {_line(row, several)}"]
            elif row["rank"] != there[key]["rank"]:
                lines.append(f"    {row['defense']}: rank {_rank(there[key])} → {_rank(row)}")
        lines += [f"  - {_line(row, several)}" for key, row in there.items() if key not in will]
        yield change.file if lines else f"{change.file}: no change"
        yield from lines


def _line(row: Row, several: Collection[str]) -> str:
    """A row in a line, with its parameters where several rows are of the same defense."""
    bound = "≥ " if row["bound"] == "≥" else ""
    settings = f" {row['defense_config']}" if row["defense"] in several else ""
    flags = f" [{row['flags']}]" if row["flags"] else ""
    error = f"error {bound}{100 * row['error']:.1f} %"
    return f"{_rank(row):>2} {row['defense']}{settings} on {row['target']}: {error}, n {row['n']}{flags}"


def _rank(row: Row) -> str:
    return "–" if row["rank"] is None else str(row["rank"])


def publish(
    board: Path, run: Run, rows: Sequence[Row], plugins: Sequence[Path], registry: Registry
) -> list[str]:
    """Put the rows on the board, with the run that they rest on; gives the changes as lines.

    Raises:
        UserError: As `changes_of`; or the board cannot be written.
    """
    with _locked(board):
        changes = changes_of(board, run, rows, registry)
        lines = list(told(board, changes))
        changes = [change for change in changes if change.coming]
        if not changes:
            return lines
        _keep(child(child(board, RUNS), run.name), run, plugins)
        # The history first: what is interrupted after it can be undone, or done again.
        entry = {"run": run.name, "changes": [asdict(change) for change in changes]}
        history = _history(board)
        if not history or history[-1] | {"date": ""} != entry | {"date": ""}:
            date = datetime.now(timezone.utc).isoformat(timespec="seconds")
            _write_history(board, [*history, {"date": date} | entry])
        _apply(board, changes)
        return lines


def _keep(folder: Path, run: Run, plugins: Sequence[Path]) -> None:
    """Copy what published rows rest on."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if os.path.lexists(run.folder / name):
            copy_own(run.folder / name, child(folder, name))
    for path in plugins:
        if path.name in run.plugins:
            kept = child(folder, PLUGINS)
            kept.mkdir(exist_ok=True)
            copy_own(path, child(kept, path.name))


def last(board: Path) -> list[Change]:
    """What undoing the last publication changes.

    Raises:
        UserError: Nothing was published, or rows of it have been replaced since by other means.
    """
    history = _history(board)
    if not history:
        raise UserError(f"nothing to undo: {board / _HISTORY} has no entry")
    changes = []
    for entry in history[-1]["changes"]:
        published, replaced = entry["coming"], entry["going"]
        there = {identity(row): row for row in read_board(board / entry["file"])}
        before = {identity(row): row for row in replaced}
        for row in published:
            found = there.get(key := identity(row))
            # where the publication was interrupted, the row before it still stands there
            if found is not None and not _same(row, found) and not _same(found, before.get(key)):
                message = f"the row of {about(row)} is not the one that was published last"
                raise UserError(Problem(message, file=str(board / entry["file"])))
        changes.append(Change(entry["file"], published, replaced))
    return changes


def undo(board: Path) -> list[str]:
    """Take the last publication back; gives the changes as lines.

    Nothing is deleted but rows: the run that they rested on goes to the board's trash folder.

    Raises:
        UserError: As `last`; or the board cannot be written.
    """
    last(board)  # a folder that is no board is not made one
    with _locked(board):
        changes = last(board)
        lines = list(told(board, changes))
        _apply(board, changes)
        history = _history(board)
        _write_history(board, history[:-1])
        remembered = [
            row for entry in history[:-1] for change in entry["changes"] for row in change["coming"]
        ]
        standing = [row for file in board.glob("*.csv") for row in read_board(file)]
        if history[-1]["run"] not in {row["run"] for row in (*remembered, *standing)}:
            lines += _discard(board, history[-1]["run"])
        return lines


def _discard(board: Path, name: str) -> Iterator[str]:
    """Move the folder of a run to the trash, under a name that no folder there has."""
    folder = child(child(board, RUNS), name)
    if not folder.is_dir() or folder.is_symlink():
        return
    trash = inside(board, board / TRASH)
    trash.mkdir(exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    places = (trash / f"{name}-{stamp}{f'-{n}' if n else ''}" for n in itertools.count())
    place = next(place for place in places if not os.path.lexists(place))
    folder.rename(place)
    yield f"the run is kept in {place}"


def _apply(board: Path, changes: Sequence[Change]) -> None:
    for change in changes:
        write_board(board / change.file, _applied(read_board(board / change.file), change))


def _applied(rows: Sequence[Row], change: Change) -> list[Row]:
    touched = {identity(row) for row in (*change.going, *change.coming)}
    return [*(row for row in rows if identity(row) not in touched), *change.coming]


def _locked(board: Path) -> FileLock:
    """Whoever writes the board holds its lock: two at once would each lose the other's rows."""
    open_out(board, "--board")
    return FileLock(inside(board, board / ".lock"))  # to lock a file empties it


def _history(board: Path) -> list[dict[str, Any]]:
    path = board / _HISTORY
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        history = [json.loads(line) for line in lines if line.strip()]
        for entry in history:
            if (fault := name_fault(entry["run"])) is not None:
                raise ValueError(f"the name of a run, {entry['run']!r}, {fault}")
            for change in entry["changes"]:
                strange = {file_name(row) for row in (*change["going"], *change["coming"])} - {change["file"]}
                if strange or name_fault(change["file"]) is not None:
                    raise ValueError(f"an entry names the file {change['file']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the history of a leaderboard: {error!r}") from error
    return history


def _write_history(board: Path, entries: Sequence[dict[str, Any]]) -> None:
    if entries:
        write_text(board / _HISTORY, "".join(json.dumps(entry) + "\n" for entry in entries))
    else:
        (board / _HISTORY).unlink(missing_ok=True)
