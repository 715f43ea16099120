"""Whether a published file holds: its columns, keys, ranks and doubts, and what its rows rest on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.errors import Problem, UserError
from benchmark.evidence import grouped
from benchmark.flags import FLAGS
from benchmark.publishing.boards import COLUMNS, RUNS, contest, file_name, identity, ranked, read_rows
from benchmark.publishing.entries import Run, controls, doubts
from benchmark.records import Row
from benchmark.registry import Registry
from benchmark.threats import THREATS

_RATES = ("clean_error", "error", "error_low", "error_high")
_NEEDED = ("dataset", "target", "threat", "judge", "norm", "eps", "defense", "control", "n", "seeds", "bound")
_UNCHECKED = "unchecked:"
_ROUNDING = 1e-6


def verify(path: Path, registry: Registry) -> list[Problem]:
    """All that is wrong with a published file; its rows' runs are looked for beside it.

    Args:
        path: The file.
        registry: To know the controls.
    """
    rows, problems = read_rows(path, COLUMNS)
    sound = []
    for number, row in enumerate(rows, 2):
        found = list(_row_problems(row, path))
        problems += [Problem(text, file=str(path), line=number) for text in found]
        if not found:
            found = list(_evidence_problems(row, path.parent / RUNS))
            problems += [Problem(text, file=str(path), line=number) for text in found]
            sound.append(row)
    if len(sound) == len(rows):
        problems += [Problem(text, file=str(path)) for text in _file_problems(rows, registry)]
    return problems


def _row_problems(row: Row, path: Path) -> Iterator[str]:
    missing = [name for name in (*_NEEDED, "protocol", "run", "commit", "key") if row[name] is None]
    if missing:
        yield f"{', '.join(missing)} is empty"
        return
    if row["threat"] not in THREATS:
        yield f"threat {row['threat']!r} is none of {', '.join(THREATS)}"
        return
    for name in ("target_config", "threat_config", "defense_config"):
        if not _is_mapping(row[name]):
            yield f"{name} is no JSON mapping"
    if file_name(row) != path.name:
        yield f"the row belongs into {file_name(row)}"
    yield from _figure_problems(row)
    unknown = [f for f in (row["flags"] or "").split() if f.removeprefix(_UNCHECKED) not in FLAGS]
    if unknown:
        yield f"flags {', '.join(unknown)}: there is none of that name"
        return
    yield from _doubt_problems(row)


def _is_mapping(text: str | None) -> bool:
    try:
        return isinstance(json.loads(text or "{}"), dict)
    except ValueError:
        return False


def _figure_problems(row: Row) -> Iterator[str]:
    for name in _RATES:
        if row[name] is not None and not 0 <= row[name] <= 1:
            yield f"{name} is {row[name]}, but a rate is between 0 and 1"
    if row["n"] < 1 or row["seeds"] < 1:
        yield f"n is {row['n']} and seeds {row['seeds']}; both are 1 or more"
    if row["bound"] == "found" and None in [row[name] for name in _RATES]:
        yield "a row without a doubt has all its errors"
    elif row["error"] is not None and not (
        row["error_low"] - _ROUNDING <= row["error"] <= row["error_high"] + _ROUNDING
    ):
        yield f"error {row['error']} lies outside of its interval {row['error_low']}–{row['error_high']}"


def _doubt_problems(row: Row) -> Iterator[str]:
    raised = doubts(row)
    if row["bound"] != ("≥" if raised else "found"):
        yield f"bound is {row['bound']!r}, but the row has {', '.join(raised) or 'no doubt'}"
    explained = json.loads(row["explained"] or "{}") if _is_mapping(row["explained"]) else {}
    silent = [flag for flag in raised if not str(explained.get(flag, "")).strip()]
    if silent:
        yield f"nothing explains the doubts {', '.join(silent)}"


def _evidence_problems(row: Row, runs: Path) -> Iterator[str]:
    """What the run says otherwise that the row rests on."""
    run = Run(runs / row["run"])
    if not run.folder.is_dir():
        yield f"run {row['run']}, which the row rests on, is not in {runs}"
        return
    try:
        if run.name != row["run"]:
            yield f"the files in {run.folder} are not those that it was published with"
            return
        if run.commit != row["commit"]:
            yield f"commit is {row['commit']}, but run {row['run']} was made by {run.commit}"
        if run.key(row) != row["key"]:
            yield f"key is not the one of its cells in run {row['run']}"
        if run.protocol(row) != row["protocol"]:
            yield f"protocol is not the one of run {row['run']}"
        yield from _better_than_its_cells(row, run)
    except (OSError, UserError) as error:
        yield f"run {row['run']}, which the row rests on, cannot be read: {error}"


def _better_than_its_cells(row: Row, run: Run) -> Iterator[str]:
    """A worst case is no lower than the error of any single cell on the same images."""
    there = run.cells(row)
    if not there:
        yield f"run {row['run']} has no cell of the row"
    same = [c for c in there if c["status"] == "ok" and c["n"] == row["n"] and c["judge"] == row["judge"]]
    inside = [c["error"] for c in same if c["norm"] == row["norm"] and c["eps"] == row["eps"]]
    deterministic = "random" not in (row["eligible"] or "")
    if deterministic and row["seeds"] == 1 and inside and max(inside) > row["error"] + _ROUNDING:
        yield f"error is {row['error']}, but a cell of run {row['run']} has {max(inside)}"


def _file_problems(rows: Sequence[Row], registry: Registry) -> Iterator[str]:
    for key, count in Counter(identity(row) for row in rows).items():
        if count > 1:
            yield f"{count} rows are of {key[-2]} on {key[4]} with the same parameters"
            return
    right = ranked(rows)
    wrong = [row for row, other in zip(rows, right, strict=True) if row != other]
    if wrong:
        yield f"ranks or the order of rows do not follow from the errors, first at {wrong[0]['defense']}"
    for group in grouped(rows, contest):
        where = f"{group[0]['target']}, {group[0]['threat_config']}"
        if len({row["protocol"] for row in group}) > 1:
            yield f"{where}: rows met different attacks or images"
        if len({row["n"] for row in group if row["bound"] == "found"}) > 1:
            yield f"{where}: ranked rows are of different numbers of images"
        there = {(row["defense"], row["defense_config"]) for row in group}
        absent = [name for name, config in controls(registry).items() if (name, config) not in there]
        if absent:
            yield f"{where}: no control {', '.join(absent)}"
