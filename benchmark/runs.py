"""Running a grid from its file to its tables."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmark.cells import Cell, Sanity
from benchmark.comparisons import add_flags
from benchmark.environment import environment, fixed_threads
from benchmark.errors import UserError, nearest
from benchmark.evidence import evidence_of
from benchmark.executor import Execution, Observer, execute
from benchmark.figures import KINDS
from benchmark.grid import Grid, load_grid
from benchmark.keys import SCHEMA
from benchmark.leaderboard import COLUMNS as LEADERBOARD_COLUMNS
from benchmark.leaderboard import leaderboard
from benchmark.opened_files import merged
from benchmark.output import OutcomesFile, open_out, unmarked, write_csv, write_json, write_text
from benchmark.outside import handed_in, outside_cells
from benchmark.paired import Judged, read_judged
from benchmark.plan import Plan, make_plan
from benchmark.provenance import provenance
from benchmark.records import COLUMNS, Row, make_record
from benchmark.registry import default_registry
from benchmark.resolve import resolve
from benchmark.store import Store, default_store
from benchmark.substitutes import COLUMNS as SUBSTITUTE_COLUMNS
from benchmark.substitutes import substitute_rows
from benchmark.tables import latex, markdown, tidy_csv
from benchmark.trust import read_trust
from benchmark.work.perform import code_of, perform
from benchmark.work.provenance import Provenance, Reuse, summarise
from benchmark.work.workshop import Workshop, address
from benchmark.zoo_layers import default_layers


@dataclass(frozen=True)
class Finished:
    """A run that came to its end; `records` may hold failed cells."""

    out: Path
    records: list[Row]
    execution: Execution

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.records if row["status"] == "failed"]


@dataclass(frozen=True)
class Prepared:
    """A grid made ready to run: planned, with its workshop."""

    grid: Grid
    plan: Plan
    workshop: Workshop
    only: Mapping[str, Collection[str]]
    sanity: Sanity
    plugins: Mapping[str, str]
    """SHA-256 of the plugin files that were given, by name."""
    absent: Sequence[str] = ()
    """Data sets without images, in a plan that is to be looked at."""
    threads: int = 1


def default_data() -> Path:
    """`BENCH_DATA`, else `~/.cache/bench/data`."""
    return Path(os.environ.get("BENCH_DATA") or Path.home() / ".cache" / "bench" / "data")


_TEXT = (
    *("dataset", "target", "target_config", "defense", "defense_config", "attack", "attack_config"),
    *("backend", "threat", "threat_config", "judge", "norm", "status", "routes", "eligible", "flags"),
    *("reason", "key", "bound", "attacks"),
)


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one.

    Raises:
        UserError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"no device {name!r}: {str(error).splitlines()[0]}", hint="try --device cpu"
        ) from error
    return device


_JUDGED = ("craft", "purify", "score")
"""Kinds of tasks whose code has to be one and the same within published rows."""

_PAUSING = threading.RLock()
"""The collector is the process's: two threads that plan must not find each other's pause."""


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without the cyclic garbage collector, which goes through all of a growing plan again and again.

    A quarter of the time of planning thousands of cells is its own, and none of them is garbage.
    """
    with _PAUSING:
        was_on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_on:
                gc.enable()


@_collector_paused()
def prepare(
    source: str | Path | Mapping[str, Any],
    observer: Observer,
    *,
    data: str | Path | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    plugins: Sequence[str | Path] = (),
    only: Mapping[str, str | Collection[str]] | None = None,
    sanity: Sanity = "fast",
    trust: Sequence[str | Path] = (),
    look: bool = False,
    reuse: Reuse = "any",
    threads: int = 1,
    folder: Path | None = None,
    zoo: bool = True,
) -> Prepared:
    """Validate a grid and plan it. Of what the grid names only the code in `plugins` and `trust` runs.

    A plan that is only to be looked at needs no images of data sets whose size is known. `reuse` says which
    stored results count, `threads` how many threads the CPU uses (another number rounds otherwise), and
    `folder` where relative paths in the grid are seen from, if not from the grid's own file. Without `zoo`
    all that the store lacks is trained.

    Raises:
        UserError: Anything in what the user gave is wrong.
    """
    registry = default_registry([Path(plugin) for plugin in plugins])
    grid = load_grid(source, registry, folder)
    chosen = pick_device(device)
    layers = default_layers(observer.warn) if zoo else ()
    opened = Store(str(store or default_store()), observer.warn, layers)
    root = Path(data or default_data())
    wanted = {name: [value] if isinstance(value, str) else value for name, value in (only or {}).items()}
    trusted = read_trust(trust, plugins)
    absent: list[str] = []
    products = resolve(
        grid,
        registry,
        root,
        trusted,
        only=wanted.get("dataset", ()),
        absent=absent if look else None,
        warn=observer.warn,
    )
    plan = make_plan(products, wanted, sanity=sanity)
    grid = replace(grid, name=f"{grid.name}-only") if wanted else grid  # a part must not pass for the whole
    budget = float("inf") if grid.budget is None else grid.budget
    made_with = Provenance(registry, code_of, environment(chosen, threads))
    workshop = Workshop(
        registry, opened, root, chosen, observer.training, perform, made_with, budget, trusted, reuse
    )
    files = {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in plugins}
    return Prepared(grid, plan, workshop, wanted, sanity, files, absent, threads)


def run_prepared(prepared: Prepared, observer: Observer, out: Path) -> Finished:
    """Do what the store lacks, and write the files of the run.

    Raises:
        UserError: `out` cannot be written.
    """
    with fixed_threads(prepared.threads):
        return _run(prepared, observer, out)


def _run(prepared: Prepared, observer: Observer, out: Path) -> Finished:
    open_out(out)
    outside = outside_cells(prepared.plan, handed_in(out))
    cells = prepared.plan.cells
    plan = Plan.of((*cells, *chain.from_iterable(outside.values()))) if outside else prepared.plan
    execution = execute(plan, prepared.workshop, observer)
    records: list[Row] = []
    substitutes: list[Row] = []
    evidence = []
    with OutcomesFile(out / "outcomes.parquet") as outcomes:
        for cell in cells:
            handed = outside.get(cell.key, ())
            result = make_record(cell, execution.failures, prepared.workshop, handed)
            records.append(result.row)
            substitutes += substitute_rows(cell, result.row, prepared.workshop)
            outcomes.add(cell, result)
            evidence += [evidence_of(*each) for each in ((cell, result), *result.outside)]
    for title, names in merged([prepared.workshop.opened(s) for cell in cells for s in cell.scores]).items():
        observer.warn(f"{title}: {', '.join(names)} is used and is no parameter (doubt undeclared-file)")
    there = [member for member in evidence if member is not None]
    add_flags(there)
    write_csv(out / "records.csv", COLUMNS, records)
    write_csv(out / "leaderboard.csv", LEADERBOARD_COLUMNS, leaderboard(there))
    if substitutes:
        write_csv(out / "substitutes.csv", SUBSTITUTE_COLUMNS, substitutes)
    write_json(out / "run.json", _run_json(prepared, out))
    write_text(out / "tables.md", read_tables(out))
    return Finished(out, records, execution)


def read_records(out: Path) -> pd.DataFrame:
    """The records of a run.

    Raises:
        UserError: The folder holds none, or something else of that name.
    """
    path = out / "records.csv"
    if not path.is_file():
        raise UserError(f"no run in {out}: there is no records.csv", hint="make one with `bench run --out`")
    if path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] != ",".join(COLUMNS):
        raise UserError(f"{path} is not the records of a run: its columns are others")
    return _read_csv(path)


def read_board(out: Path) -> pd.DataFrame:
    """The leaderboard of a run; without rows where there is none.

    Raises:
        UserError: The file is something else.
    """
    path = out / "leaderboard.csv"
    if not path.is_file():
        empty: pd.DataFrame = pd.DataFrame(columns=list(LEADERBOARD_COLUMNS))
        return empty
    board = _read_csv(path)
    missing = [name for name in LEADERBOARD_COLUMNS if name not in board]
    if missing:
        raise UserError(f"{path} is not the leaderboard of a run: it has no column {missing[0]!r}")
    return board


def _read_csv(path: Path) -> pd.DataFrame:
    """A CSV with the text columns of records and leaderboards as text, whatever stands there."""
    try:
        columns = pd.read_csv(path, nrows=0).columns
        frame = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT, str),
            keep_default_na=False,  # a defense may be named "null"
            na_values={name: [""] if name in _TEXT else ["", "nan"] for name in columns},
            float_precision="round_trip",
        )
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    text = [name for name in frame if name in _TEXT]
    plain: pd.DataFrame = frame.assign(**{name: frame[name].map(unmarked) for name in text})
    return plain


def read_outcomes(out: Path) -> dict[str, Judged] | None:
    """Which images each cell of a run got wrong, by the cell's key; None where the run has no outcomes."""
    path = out / "outcomes.parquet"
    return read_judged(path) if path.is_file() else None


def read_about(out: Path) -> dict[str, Any]:
    """The `run.json` of a run, or no more than its name where there is none.

    Raises:
        UserError: The file is not what a run writes.
    """
    path = out / "run.json"
    if not path.is_file():
        return {"name": out.resolve().name}
    try:
        about = dict(json.loads(path.read_text(encoding="utf-8")))
        return about | {"name": str(about["name"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the run.json of a run: {error!r}") from error


def read_tables(
    out: Path,
    form: str = "markdown",
    kinds: Collection[str] = tuple(KINDS),
    intervals: bool | None = None,
) -> str:
    """The tables of a run, made anew from its records.

    Args:
        out: The folder of the run.
        form: `markdown`, `latex` or `csv`.
        kinds: Which kinds of tables, of `benchmark.figures.KINDS`.
        intervals: Whether rates carry their intervals; by default in LaTeX alone, and in CSV always.

    Raises:
        UserError: The folder holds no run, or there is no such form or kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"no kind of table {kind!r}", hint=nearest(kind, KINDS))
    records, judged, title = read_records(out), read_outcomes(out), read_about(out)["name"]
    if form == "csv":
        return tidy_csv(records, judged, kinds=kinds)
    setters = {"markdown": (markdown, False), "latex": (latex, True)}
    if form not in setters:
        raise UserError(f"no format {form!r}", hint=nearest(form, [*setters, "csv"]))
    setter, usual = setters[form]
    return setter(records, title, judged, kinds=kinds, intervals=usual if intervals is None else intervals)


def made_of(cells: Sequence[Cell], workshop: Workshop) -> Iterator[Mapping[str, Any]]:
    """What the stored attacks and verdicts of cells were made with."""
    scores = [score for cell in cells for score in cell.scores]
    tasks = [task for score in scores for task in (score, *score.needs())]
    for task in {task.key: task for task in tasks if task.kind in _JUDGED}.values():
        meta = workshop.store.meta(address(task))
        if meta is not None:
            yield meta.get("made") or {}


def _run_json(prepared: Prepared, out: Path) -> dict[str, Any]:
    cells = prepared.plan.cells
    datasets = {cell.dataset.title: cell.dataset.resolved for cell in cells}
    return {
        "schema": SCHEMA,
        "name": prepared.grid.name,
        "grid": prepared.grid.data,
        **_files_of(prepared.grid, out),
        "only": {name: sorted(values) for name, values in prepared.only.items()},
        "sanity": prepared.sanity,
        "plugins": dict(prepared.plugins),
        "made": summarise(made_of(cells, prepared.workshop)),
        "resolved": {"datasets": datasets, "cells": [cell.identity | {"key": cell.key} for cell in cells]},
        **provenance(str(prepared.workshop.device)),
    }


def _files_of(grid: Grid, out: Path) -> dict[str, Any]:
    """Which parameters name files, and if a path is relative, the folder that it is seen from.

    The folder is private, so a run whose grid does not need it leaves it out.
    """
    named = grid.files
    about: dict[str, Any] = {"files": sorted({title for title, _ in named})} if named else {}
    if any(not path.is_absolute() for _, path in named):
        about["grid_folder"] = os.path.relpath(grid.folder, out.resolve())
    return about
