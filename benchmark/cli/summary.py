"""Summaries of a run: the dry run before it, its results and failures after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmark.cli.progress import describe_task, format_duration
from benchmark.cli.time_estimate import estimate
from benchmark.execution.executor import from_zoo, split_by_store
from benchmark.report.tables import read_tables
from benchmark.results.flags import FLAGS, is_doubt
from benchmark.runs import CompletedRun, PlannedRun

_FILES = ("records.csv", "leaderboard.csv", "substitutes.csv", "outcomes.parquet", "tables.md", "run.json")


def dry_run_summary(planned: PlannedRun) -> Iterator[str]:
    """Describe a planned run: its cells, stored results, trainings to do, and the expected time."""
    plan = planned.plan
    missing, cached = split_by_store(plan, planned.context)
    yield f"{len(plan.cells)} cells, {len(plan.skipped)} of them skipped"
    if planned.missing_datasets:
        names = ", ".join(planned.missing_datasets)
        yield f"  images not found, so the published number of images counts: {names}"
    groups = Counter((cell.dataset.title, cell.target.label, cell.threat.name, cell.n) for cell in plan.cells)
    for (dataset, target, threat, n), count in groups.items():
        yield f"  {dataset}, {target}, {threat}: {count} cells, n = {n}"
    yield f"in the store: {len(cached)} results; to do: {len(missing)}"
    yield from (f"  {line}" for line in from_zoo(cached, planned.context))
    for kind, count in Counter(task.kind for task in missing).items():
        yield f"  {count} × {kind}"
    trainings = Counter(describe_task(task) for task in missing if task.kind.startswith("train"))
    yield from (f"  needs {training}{f' × {n}' if n > 1 else ''}" for training, n in trainings.items())
    if not trainings and any(task.kind.startswith("train") for task in cached):
        yield "  nothing to train"
    seconds, unknown = estimate(missing, planned.context.store)
    if seconds or not unknown:
        yield f"time, from earlier timings: about {format_duration(seconds)}"
    else:
        yield "time: no such task was timed here yet; built-in grids state theirs in the first lines"
    if unknown:
        kinds = sorted({f"{task.kind} {task.label}" for task in unknown})
        yield f"  and {len(unknown)} tasks never timed here: {', '.join(kinds)}"


def run_summary(completed: CompletedRun, report: Path) -> Iterator[str]:
    """Describe the results of a run: tables, counts of cells, files, the report, and all raised doubts."""
    yield read_tables(completed.out, kinds=("errors", "fidelity"))
    counts = Counter(row["status"] for row in completed.records)
    yield "cells: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    yield from (f"  {completed.out / name}" for name in _FILES if (completed.out / name).exists())
    yield f"report, to open in a browser: {report}"
    rules = {f"{row['defense']}: {row['eligible']}": None for row in completed.records if row["eligible"]}
    if rules:
        yield f"RobustBench's rules (yes, or the broken rules): {'; '.join(rules)}"
    raised = Counter(flag for row in completed.records for flag in (row["flags"] or "").split())
    doubts = [flag for flag in FLAGS if raised[flag] and is_doubt(flag)]
    explained = "doubts (benchmark/FLAGS.md explains each, and what to do):"
    yield explained if doubts else "doubts: the checks that ran raised none"
    yield from (f"  {flag}, {raised[flag]} cells: {FLAGS[flag].raised_if}" for flag in doubts)


def failure_summary(completed: CompletedRun) -> Iterator[str]:
    """For each reason why cells failed, the number of these cells."""
    for reason, count in Counter(row["reason"] for row in completed.failed).items():
        yield f"failed, {count} cells: {reason}"
