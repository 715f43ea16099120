"""Checks of a single row: its values, and its agreement with the records of its run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from benchmark.files.tables import Row
from benchmark.metrics.statistics import wilson
from benchmark.plan.threats import THREATS
from benchmark.publishing.board_files import describe_row
from benchmark.publishing.published_run import Run
from benchmark.results.flags import FLAGS, is_unchecked
from benchmark.results.leaderboard import withholds

_RATE_COLUMNS = ("clean_error", "error", "error_low", "error_high")
_REQUIRED_COLUMNS = (
    *("dataset", "target", "threat", "judge", "norm", "eps", "defense", "control", "n", "seeds", "bound"),
    *_RATE_COLUMNS,
)
_ROUNDING = 1e-6


def doubts(flags: str | None) -> list[str]:
    """The flags that withhold the rank of a row."""
    return [flag for flag in (flags or "").split() if withholds(flag)]


def row_problems(row: Row, controls: Mapping[str, str]) -> Iterator[str]:
    """Problems of the values of a row: missing or invalid values, unknown names, doubts."""
    missing = [name for name in _REQUIRED_COLUMNS if row[name] is None]
    if missing:
        yield f"{', '.join(missing)} is empty: {row['defense']} on {row['target']}"
        return
    if row["threat"] not in THREATS:
        yield f"unknown threat {row['threat']!r}; known: {', '.join(THREATS)}"
        return
    for name in ("target_config", "threat_config", "defense_config"):
        if not is_json_mapping(row[name]):
            yield f"{name} is not a JSON mapping"
    unknown = [f for f in (row["flags"] or "").split() if f not in FLAGS and not is_unchecked(f)]
    if unknown:
        yield f"unknown flags {', '.join(unknown)}"
        return
    if row["control"] and row["defense"] not in controls:
        yield f"{row['defense']} is not one of the controls {', '.join(controls)}"
    yield from _number_problems(row)
    raised = doubts(row["flags"])
    if row["bound"] != ("≥" if raised else "found"):
        yield f"bound is {row['bound']!r}, but the row has {', '.join(raised) or 'no doubt'}"


def is_json_mapping(text: str | None) -> bool:
    """Whether a text is a JSON mapping; an empty text counts as one."""
    try:
        return isinstance(json.loads(text or "{}"), dict)
    except ValueError:
        return False


def _number_problems(row: Row) -> Iterator[str]:
    invalid = [name for name in _RATE_COLUMNS if not 0 <= row[name] <= 1]
    if invalid:
        yield f"{invalid[0]} is {row[invalid[0]]}, but a rate is between 0 and 1"
    elif row["n"] < 1 or row["seeds"] < 1:
        yield f"n is {row['n']} and seeds {row['seeds']}; both are 1 or more"
    elif row["seeds"] == 1:
        low, high = wilson(round(row["error"] * row["n"]), row["n"])
        if max(abs(low - row["error_low"]), abs(high - row["error_high"])) > _ROUNDING:
            yield f"the interval of error {row['error']} is not Wilson's for {row['n']} images"
    elif not row["error_low"] - _ROUNDING <= row["error"] <= row["error_high"] + _ROUNDING:
        yield f"error {row['error']} lies outside of its interval {row['error_low']}–{row['error_high']}"


def record_problems(row: Row, run: Run) -> Iterator[str]:
    """Contradictions between a row and the records of its run.

    Raises:
        UserError: The run cannot be read.
    """
    cells = run.cells_in_ball(row)
    if not cells:
        yield f"the run has no cell for {describe_row(row)}"
        return
    fewest = min(cell["n"] for cell in cells)
    if row["n"] > fewest:
        yield f"n is {row['n']}, but its cells have {fewest} images"
    combinations = len(run.cells_by_seeds(row))
    if row["seeds"] != combinations:
        yield f"seeds is {row['seeds']}, but its cells have {combinations} combinations"
    for name in ("judge", "eligible"):
        values = {cell[name] for cell in cells}
        if row[name] not in values:
            yield f"{name} is {row[name]!r}, but its cells have {', '.join(map(repr, values))}"
    missing = {flag for cell in cells for flag in doubts(cell["flags"])} - set(doubts(row["flags"]))
    if row["error"] == 1:  # a row without any claim keeps only the doubts about its target
        missing = {flag for flag in missing if FLAGS[flag].of_target}
    if missing:
        yield f"its cells have the doubts {', '.join(sorted(missing))}, which the row leaves out"
    yield from _error_problems(row, run)


def _error_problems(row: Row, run: Run) -> Iterator[str]:
    """A worst case per image cannot be below the error of a single attack, nor below the clean error."""
    highest = []
    for cells in run.cells_by_seeds(row):
        errors = [cell[name] for cell in cells if cell["n"] == row["n"] for name in ("error", "clean_error")]
        highest.append(max(errors, default=0))
    bound = sum(highest) / len(highest)
    if row["error"] < bound - _ROUNDING:
        yield f"error is {row['error']}, but an attack alone, or the clean error, has {bound:.6g}"
