"""What is said of a run before it begins and after its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmark.display import describe
from benchmark.estimate import estimate
from benchmark.executor import from_zoo, split_by_store
from benchmark.flags import FLAGS, is_doubt
from benchmark.runs import Finished, Prepared, read_tables

_HOUR = 3600

_FILES = ("records.csv", "leaderboard.csv", "substitutes.csv", "outcomes.parquet", "tables.md", "run.json")


def announcement(prepared: Prepared) -> Iterator[str]:
    """The dry run: cells, what the store has, what will be trained, how long it may take."""
    plan = prepared.plan
    missing, cached = split_by_store(plan, prepared.workshop)
    yield f"{len(plan.cells)} cells, {len(plan.skipped)} of them skipped"
    if prepared.absent:
        yield f"  not at hand, and counted by their published size: {', '.join(prepared.absent)}"
    groups = Counter((cell.dataset.title, cell.target.label, cell.threat.name, cell.n) for cell in plan.cells)
    for (dataset, target, threat, n), count in groups.items():
        yield f"  {dataset}, {target}, {threat}: {count} cells, n = {n}"
    yield f"in the store: {len(cached)} results; to do: {len(missing)}"
    yield from (f"  {line}" for line in from_zoo(cached, prepared.workshop))
    for kind, count in Counter(task.kind for task in missing).items():
        yield f"  {count} × {kind}"
    trainings = Counter(describe(task) for task in missing if task.kind.startswith("train"))
    yield from (f"  needs {training}{f' × {n}' if n > 1 else ''}" for training, n in trainings.items())
    if not trainings and any(task.kind.startswith("train") for task in cached):
        yield "  nothing to train"
    guess = estimate(missing, prepared.workshop.store)
    if guess.seconds or not guess.unknown:
        yield f"time, from earlier timings: about {_long(guess.seconds)}"
    else:
        yield "time: nothing like it was timed here yet; built-in grids say at their top what they take"
    if guess.unknown:
        kinds = sorted({f"{task.kind} {task.label}" for task in guess.unknown})
        yield f"  and {len(guess.unknown)} tasks never timed here: {', '.join(kinds)}"


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"


def conclusion(finished: Finished, report: Path) -> Iterator[str]:
    """The tables, the files, the page to look at, and every doubt that was raised."""
    yield read_tables(finished.out, kinds=("errors", "fidelity"))
    counts = Counter(row["status"] for row in finished.records)
    yield "cells: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    yield from (f"  {finished.out / name}" for name in _FILES if (finished.out / name).exists())
    yield f"to look at: {report}"
    rules = {f"{row['defense']}: {row['eligible']}": None for row in finished.records if row["eligible"]}
    if rules:
        yield f"RobustBench's rules (yes, or what is broken): {'; '.join(rules)}"
    raised = Counter(flag for row in finished.records for flag in (row["flags"] or "").split())
    doubts = [flag for flag in FLAGS if raised[flag] and is_doubt(flag)]
    if not doubts:
        yield "doubts: none that was looked for"
        return
    yield "doubts (what each means and what to do: benchmark/FLAGS.md):"
    yield from (f"  {flag}, {raised[flag]} cells: {FLAGS[flag].raised_if}" for flag in doubts)


def complaints(finished: Finished) -> Iterator[str]:
    """Why cells failed."""
    for reason, count in Counter(row["reason"] for row in finished.failed).items():
        yield f"failed, {count} cells: {reason}"
