"""Changes of the leaderboard files: planned, described as text, and applied."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.files.tables import Row
from benchmark.plugins.registry import Registry
from benchmark.publishing.board_files import RUNS, file_name, rank_rows, read_board, row_identity, write_board
from benchmark.publishing.comparability import comparability_problems, control_configs
from benchmark.publishing.published_run import Run, runs_in
from benchmark.results.cell_outcomes import group_by

_VARIABLE_COLUMNS = {"rank", "run", "commit", "purify_ms"}
"""Columns that may differ between two computations of the same row."""


@dataclass(frozen=True)
class BoardChange:
    """Rows to remove from a file and to add to it. Its fields are the keys of a change in `history.jsonl`."""

    file: str
    going: list[Row]
    coming: list[Row]

    def apply_to(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of the file after the change, unranked."""
        changed = {row_identity(row) for row in (*self.going, *self.coming)}
        return [*(row for row in rows if row_identity(row) not in changed), *self.coming]

    def write(self, board: Path) -> None:
        """Write the changed file."""
        write_board(board / self.file, self.apply_to(read_board(board / self.file)))


def plan_changes(board: Path, run: Run, rows: Sequence[Row], registry: Registry) -> list[BoardChange]:
    """The changes that publish the rows, one per file; a row that is already published changes nothing.

    Raises:
        UserError: A file of the board is invalid, or the new rows are not comparable with its rows: other
            images, other attacks, or another number of images.
    """
    changes, problems, controls = [], [], control_configs(registry)
    run_of = runs_in(board / RUNS, run)
    for new_rows in group_by(rows, file_name).values():
        file = file_name(new_rows[0])
        published = {row_identity(row): row for row in read_board(board / file)}
        new = {key: row for row in new_rows if not same_row(row, published.get(key := row_identity(row)))}
        change = BoardChange(file, [published[key] for key in new if key in published], list(new.values()))
        found = comparability_problems(change.apply_to(list(published.values())), run_of, controls)
        problems += [Problem(text, file=str(board / file)) for text in found]
        changes.append(change)
    if problems:
        raise UserError(problems)
    return changes


def same_row(row: Row, other: Row | None) -> bool:
    """Whether two rows agree, up to columns that vary between computations and rounding in the file."""

    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=1e-7, abs_tol=1e-8)
        return bool(one == other)

    names = row.keys() - _VARIABLE_COLUMNS
    return other is not None and all(equal(row[name], other[name]) for name in names)


def describe_changes(board: Path, changes: Sequence[BoardChange]) -> Iterator[str]:
    """The changes as lines of text: rows that are added, removed or replaced, and ranks that change."""
    for change in changes:
        rows = read_board(board / change.file)
        before = {row_identity(row): row for row in rank_rows(rows)}
        after = {row_identity(row): row for row in rank_rows(change.apply_to(rows))}
        settings = {(row["defense"], row["defense_config"]) for row in (*before.values(), *after.values())}
        repeated = {name for name, count in Counter(name for name, _ in settings).items() if count > 1}
        lines = []
        for key, row in after.items():
            if key not in before:
                lines.append(f"  + {_row_text(row, repeated)}")
            elif not same_row(row, before[key]):
                lines += [f"  - {_row_text(before[key], repeated)}", f"  + {_row_text(row, repeated)}"]
            elif row["rank"] != before[key]["rank"]:
                lines.append(f"    {row['defense']}: rank {_rank_text(before[key])} → {_rank_text(row)}")
        lines += [f"  - {_row_text(row, repeated)}" for key, row in before.items() if key not in after]
        yield change.file if lines else f"{change.file}: no change"
        yield from lines


def _row_text(row: Row, repeated: Collection[str]) -> str:
    """A row as one line; a defense with several rows is shown with its parameters."""
    settings = f" {row['defense_config']}" if row["defense"] in repeated else ""
    flags = f" [{row['flags']}]" if row["flags"] else ""
    error = f"error {'≥ ' if row['bound'] == '≥' else ''}{100 * row['error']:.1f} %"
    return f"{_rank_text(row):>2} {row['defense']}{settings} on {row['target']}: {error}, n {row['n']}{flags}"


def _rank_text(row: Row) -> str:
    return "–" if row["rank"] is None else str(row["rank"])
