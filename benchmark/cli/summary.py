"""Summaries of a run: the dry run before it, its results and failures after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmark.cli.progress import describe_task
from benchmark.cli.wording import KINDS, count_of, format_duration, sort_kinds
from benchmark.execution.costs import CostModel
from benchmark.execution.devices import physical_cores
from benchmark.execution.executor import from_zoo, split_by_store
from benchmark.execution.remaining import RemainingWork
from benchmark.plan.grid import builtin_grids
from benchmark.plan.tasks import Task
from benchmark.report.tables import read_tables
from benchmark.results.flags import FLAGS, is_doubt
from benchmark.runs import RESULT_FILES, CompletedRun, PlannedRun


def dry_run_summary(planned: PlannedRun) -> Iterator[str]:
    """Describe a planned run: its cells, what is stored, what will be done, and how long that takes."""
    plan = planned.plan
    missing, cached = split_by_store(plan, planned.context)
    skipped = f", of which {len(plan.skipped)} cannot be run and are skipped" if plan.skipped else ""
    yield f"{count_of(len(plan.cells), 'cell')}{skipped}"
    if planned.missing_datasets:
        names = ", ".join(planned.missing_datasets)
        yield f"  images not found, so the published numbers of images are used: {names}"
    groups = Counter((cell.dataset.title, cell.target.label, cell.threat.name, cell.n) for cell in plan.cells)
    for (dataset, target, threat, n), count in groups.items():
        yield f"  {dataset}, {target}, {threat}: {count_of(count, 'cell')}, {count_of(n, 'image')} per cell"
    yield f"already in the store: {count_of(len(cached), 'result')}"
    yield from (f"  {line}" for line in from_zoo(cached, planned.context))
    yield f"to do: {count_of(len(missing), 'task')}"
    yield from (f"  {line}" for line in _work(missing))
    yield from _expected_time(missing, planned)


def _work(missing: Sequence[Task]) -> Iterator[str]:
    """A line for each training and for each other kind of work, with the number of tasks and the plugins."""
    trainings = Counter(describe_task(task) for task in missing if task.kind.startswith("train"))
    yield from (f"{text}{f' ({count} times)' if count > 1 else ''}" for text, count in trainings.items())
    if not trainings:
        yield "nothing to train"
    for kind in sort_kinds(task.kind for task in missing):
        if not kind.startswith("train"):
            members = [task for task in missing if task.kind == kind]
            yield f"{KINDS[kind]}: {count_of(len(members), 'task')} ({_labels(members)})"


def _labels(members: Iterable[Task]) -> str:
    return ", ".join(sorted({task.label for task in members}))


def _expected_time(missing: Sequence[Task], planned: PlannedRun) -> Iterator[str]:
    if not missing:
        yield "time: only that of writing the tables and the report"
        return
    costs = CostModel(planned.context.store, missing)
    cores = physical_cores()
    alone, together = (format_duration(RemainingWork(missing, n, costs).seconds()) for n in (1, cores))
    yield f"time: about {alone} on 1 core" + (f", about {together} on {cores}" if cores > 1 else "")
    if planned.grid.name in builtin_grids():
        yield f"  `bench show {planned.grid.name}` may say how long this grid takes on another machine"


def run_summary(completed: CompletedRun, report: Path) -> Iterator[str]:
    """Describe the results of a run: tables, counts of cells, files, the report, and all raised doubts."""
    yield read_tables(completed.out, kinds=("errors", "fidelity"))
    counts = Counter(row["status"] for row in completed.records)
    yield "cells: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    yield from (f"  {completed.out / name}" for name in RESULT_FILES if (completed.out / name).exists())
    yield f"report, to open in a browser: {report}"
    rules = {f"{row['defense']}: {row['eligible']}": None for row in completed.records if row["eligible"]}
    if rules:
        yield f"RobustBench's rules (yes, or the broken rules): {'; '.join(rules)}"
    raised = Counter(flag for row in completed.records for flag in (row["flags"] or "").split())
    doubts = [flag for flag in FLAGS if raised[flag] and is_doubt(flag)]
    explained = "doubts (benchmark/FLAGS.md explains each, and what to do):"
    yield explained if doubts else "doubts: none, from the checks that ran"
    yield from (f"  {flag}, {count_of(raised[flag], 'cell')}: {FLAGS[flag].raised_if}" for flag in doubts)


def failure_summary(completed: CompletedRun) -> Iterator[str]:
    """For each reason why cells failed, the number of these cells."""
    for reason, count in Counter(row["reason"] for row in completed.failed).items():
        yield f"failed, {count_of(count, 'cell')}: {reason}"
