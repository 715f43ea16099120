"""A run from the grid to its files: `plan_run` plans it, `execute_run` executes it and writes the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from benchmark.errors import BudgetError, Failure, PluginError, UserError
from benchmark.execution.context import ExecutionContext
from benchmark.execution.costs import CostModel
from benchmark.execution.devices import gpu_environments, pick_device
from benchmark.execution.dispatch import code_of, recompute_lost
from benchmark.execution.engines import Executor, InProcess
from benchmark.execution.executor import Execution, Limits, execute
from benchmark.execution.observer import Observer
from benchmark.execution.provenance import Provenance, Reuse
from benchmark.execution.workers import LocalWorkers, WorkerPlan
from benchmark.files.tables import Row, write_csv
from benchmark.files.writing import make_output_folder, write_json, write_text
from benchmark.plan.cells import Cell, Sanity
from benchmark.plan.garbage_collection import collector_paused
from benchmark.plan.grid import Grid, load_grid
from benchmark.plan.plan import Plan, make_plan
from benchmark.plan.resolve import resolve
from benchmark.plugins.fingerprint import fingerprint
from benchmark.plugins.opened_files import merge_opened
from benchmark.plugins.registry import default_registry
from benchmark.plugins.trust import read_trust
from benchmark.report.tables import read_tables
from benchmark.results.cell_outcomes import cell_outcomes
from benchmark.results.columns import LEADERBOARD_COLUMNS, RECORD_COLUMNS, SUBSTITUTE_COLUMNS
from benchmark.results.cross_checks import add_flags
from benchmark.results.external_images import ExternalEntry, external_cells, external_entries
from benchmark.results.leaderboard import leaderboard
from benchmark.results.outcomes_file import OutcomesFile
from benchmark.results.records import Result, make_record
from benchmark.results.run_metadata import run_metadata
from benchmark.results.substitutes import substitute_rows
from benchmark.results.up_to_date import digest_of_inputs, note_inputs, unchanged_records
from benchmark.storage.environment import environment, fixed_threads
from benchmark.storage.store import Store, default_data, default_store
from benchmark.storage.zoo_layers import default_layers


@dataclass(frozen=True)
class PlannedRun:
    """A planned grid, with the context to execute it in.

    Attributes:
        only: The values that are kept, by column; empty for the whole grid.
        plugins: SHA-256 of each plugin file, by the name of the file.
        missing_datasets: Data sets whose images were not found; such a plan cannot be executed.
        options: The other arguments of `plan_run`, to plan the same run in a worker process.
    """

    grid: Grid
    plan: Plan
    context: ExecutionContext
    only: Mapping[str, Collection[str]]
    sanity: Sanity
    plugins: Mapping[str, str]
    missing_datasets: Sequence[str] = ()
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompletedRun:
    """A run whose files are written; some of its cells may have failed.

    Attributes:
        unchanged: Whether the files of an earlier run were up to date, so that they were kept.
    """

    out: Path
    records: list[Row]
    execution: Execution
    unchanged: bool = False

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.records if row["status"] == "failed"]


@collector_paused()
def plan_run(
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
    plan_only: bool = False,
    reuse: Reuse = "any",
    threads: int = 1,
    folder: Path | None = None,
    zoo: bool = True,
) -> PlannedRun:
    """Validate a grid and plan it. No code that the grid names runs unless `plugins` or `trust` names it too.

    Arguments that are not listed are options of `bench run`.

    Args:
        source: A grid file, the name of a built-in grid, or a mapping with the same keys.
        observer: Gets warnings, and the progress of the run.
        only: The values to keep, by column.
        plan_only: Whether the plan will not be executed. The images of a data set may then be missing if
            their number is known.
        folder: The folder that relative paths are relative to, if not that of the grid file.

    Raises:
        UserError: Something in the user's input is wrong.
    """
    paths = [Path(plugin).absolute() for plugin in plugins]
    registry = default_registry(paths)
    grid = load_grid(source, registry, folder)
    torch_device = pick_device(device)
    layers = default_layers(observer.warn) if zoo else ()
    results = Store(str(store or default_store()), observer.warn, layers)
    root, trusted = Path(data or default_data()), read_trust(trust, plugins)
    kept = {name: [value] if isinstance(value, str) else list(value) for name, value in (only or {}).items()}
    missing_datasets: list[str] = []
    absent, datasets = (missing_datasets if plan_only else None), kept.get("dataset", ())
    blocks = resolve(grid, registry, root, trusted, only=datasets, missing=absent, warn=observer.warn)
    plan = make_plan(blocks, kept, sanity=sanity)
    if kept:  # a part must not be mistaken for the whole grid
        grid = replace(grid, name=f"{grid.name}-only")
    budget = float("inf") if grid.budget is None else grid.budget
    origin = Provenance(registry, code_of, environment(torch_device, threads))
    limits = (budget, trusted, reuse, grid.resources)
    context = ExecutionContext(registry, results, root, torch_device, observer.training, origin, *limits)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    options = {"data": root, "store": results.url, "device": device, "plugins": paths, "only": kept}
    options |= {"sanity": sanity, "trust": trust, "reuse": reuse, "threads": threads, "zoo": zoo}
    return PlannedRun(grid, plan, context, kept, sanity, digests, missing_datasets, threads, options)


@dataclass(frozen=True)
class PlanAgain:
    """Plans a run in a worker process; the driver sends it there.

    Attributes:
        grid: The grid as JSON, whose relative paths start at `folder`.
        options: The other arguments of `plan_run`.
        external: The external images of the run.
    """

    grid: str
    folder: Path
    options: Mapping[str, Any]
    external: Sequence[ExternalEntry]

    def __call__(self, observer: Observer) -> WorkerPlan:
        planned = plan_run(json.loads(self.grid), observer, folder=self.folder, **self.options)
        plan = _with_external(planned, self.external)[0]
        tasks = {task.key: task for task in plan.tasks}
        return WorkerPlan(tasks, planned.context, planned.threads)


def _with_external(
    planned: PlannedRun, entries: Sequence[ExternalEntry]
) -> tuple[Plan, dict[str, list[Cell]]]:
    """The plan with the cells of external images, and these cells by the key of the planned cell."""
    external = external_cells(planned.plan, entries)
    if not external:
        return planned.plan, external
    return Plan.of((*planned.plan.cells, *chain.from_iterable(external.values()))), external


def local_workers(planned: PlannedRun, out: Path, count: int) -> LocalWorkers:
    """An executor with up to `count` worker processes for a run whose files are in the folder `out`.

    If there are several GPUs and the device of the run is `cuda`, the workers take them in turn.
    """
    grid, external = json.dumps(planned.grid.data), external_entries(out)
    plan_again = PlanAgain(grid, planned.grid.folder, planned.options, external)
    return LocalWorkers(plan_again, count, gpu_environments(planned.context.device))


def execute_run(
    planned: PlannedRun,
    observer: Observer,
    out: Path,
    *,
    workers: int = 1,
    least_seconds: float = 0.0,
    limits: Limits | None = None,
) -> CompletedRun:
    """Compute the results that the store lacks, and write the files of the run to the folder `out`.

    Args:
        workers: Number of worker processes; with 1 and without limits, this process does everything.
        least_seconds: It also does so if all tasks together are expected to take less time than this.

    Raises:
        UserError: `out` cannot be written, or `workers` is not a number from 1.
        StoppedError: The time of the run is over. The same call continues it.
    """
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"`workers` is a number from 1, got {workers!r}")
    make_output_folder(out)
    with fixed_threads(planned.threads):
        context = planned.context
        plan, external = _with_external(planned, external_entries(out))
        inputs = _digest_of_inputs(planned, plan, out)
        if inputs is not None and (unchanged := unchanged_records(out, inputs)) is not None:
            observer.begin([], plan.tasks, 1, CostModel())
            observer.end()
            return CompletedRun(out, unchanged, Execution(), unchanged=True)

        def make_executor(seconds: float) -> Executor:
            if limits is None and seconds < least_seconds:
                return InProcess(context)
            return local_workers(planned, out, workers)

        # with limits always apart, because a task in this process could not be stopped
        apart = make_executor if workers > 1 or limits is not None else None
        execution = execute(plan, context, observer, apart, limits)
        with collector_paused():
            records = _write_results(planned, execution.failures, external, observer, out)
        note_inputs(out, _digest_of_inputs(planned, plan, out), RESULT_FILES)
    return CompletedRun(out, records, execution)


def _digest_of_inputs(planned: PlannedRun, plan: Plan, out: Path) -> str | None:
    """Identifies everything that the files of a run are made from; None if a result is missing."""
    entries = {entry.entry for block in planned.grid.blocks for entry in block.entries}
    code = {f"{entry.kind} {entry.name}": entry.fingerprint() for entry in entries}
    settings = {
        "code": code | {"": fingerprint(Path(__file__), __name__)},
        "grid": planned.grid.data,
        "name": planned.grid.name,
        "settings": _settings(planned),
        "environment": planned.context.provenance.environment,
        "external": [vars(entry) for entry in external_entries(out)],
    }
    return digest_of_inputs(plan, planned.context, settings)


def _settings(planned: PlannedRun) -> dict[str, Any]:
    only = {name: sorted(values) for name, values in planned.only.items()}
    return {"only": only, "sanity": planned.sanity, "plugins": dict(planned.plugins)}


RESULT_FILES = (
    "records.csv",
    "leaderboard.csv",
    "substitutes.csv",
    "outcomes.parquet",
    "tables.md",
    "run.json",
)
"""The files that a run may write to its folder."""


def _write_results(
    planned: PlannedRun,
    failures: Mapping[str, Failure],
    external: Mapping[str, Sequence[Cell]],
    observer: Observer,
    out: Path,
) -> list[Row]:
    """Write the files of a run to the folder `out`; `failures` are those of tasks, by key."""
    cells, context = planned.plan.cells, planned.context
    records: list[Row] = []
    substitutes: list[Row] = []
    compared = []
    with OutcomesFile(out / "outcomes.parquet") as file:
        for cell in cells:
            result, rows = _read_cell(cell, failures, external.get(cell.key, ()), context)
            records.append(result.record)
            substitutes += rows
            file.add(cell, result)
            for one, its_result in ((cell, result), *result.external):
                if (outcomes := cell_outcomes(one, its_result)) is not None:
                    compared.append(outcomes)
    for title, names in merge_opened([context.opened(s) for cell in cells for s in cell.scores]).items():
        observer.warn(f"{title}: {', '.join(names)} is used and is no parameter (doubt undeclared-file)")
    add_flags(compared)
    write_csv(out / "records.csv", RECORD_COLUMNS, records)
    write_csv(out / "leaderboard.csv", LEADERBOARD_COLUMNS, leaderboard(compared))
    if substitutes:
        write_csv(out / "substitutes.csv", SUBSTITUTE_COLUMNS, substitutes)
    write_json(out / "run.json", run_metadata(planned.grid, cells, context, out, _settings(planned)))
    write_text(out / "tables.md", read_tables(out))
    return records


def _read_cell(
    cell: Cell, failures: Mapping[str, Failure], external: Sequence[Cell], context: ExecutionContext
) -> tuple[Result, list[Row]]:
    """The result of a cell and its rows of substitutes; lost results are computed again."""

    def read() -> tuple[Result, list[Row]]:
        result = make_record(cell, failures, context, external)
        return result, list(substitute_rows(cell, result.record, context))

    try:
        return recompute_lost(read, context)
    except (PluginError, UserError) as error:
        failure = Failure(str(error), "budget" if isinstance(error, BudgetError) else "failed")
        return make_record(cell, {cell.tasks[0].key: failure}, context), []
