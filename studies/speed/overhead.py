"""What does a task cost beside its own work? A part of `studies.speed`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmark.execution import dispatch
from benchmark.execution.engines import Executor
from benchmark.execution.executor import execute
from benchmark.execution.observer import Observer, Silent
from benchmark.execution.workers import LocalWorkers, PlanRun, WorkerPlan
from benchmark.plan.tasks import Task
from benchmark.runs import PlanAgain, PlannedRun, plan_run
from studies import REPOSITORY
from studies.speed.scale import grid

_PLUGIN = REPOSITORY / "tests" / "plugin_files" / "toy.py"


def overhead() -> None:
    """Seconds per task of the tasks of 10,000 cells, none of which does anything."""
    with tempfile.TemporaryDirectory() as store:
        planned = plan_run(grid(), Silent(), store=store, device="cpu", plugins=[_PLUGIN])
        again = PlanAgain(json.dumps(planned.grid.data), Path.cwd(), planned.options, ())
        _measure("in this process", planned, None)
        for count in (1, 2):
            _measure(f"{count} workers", planned, partial(_workers, again, count))


def _workers(plan_again: PlanAgain, count: int, seconds: float) -> Executor:
    return LocalWorkers(_Empty(plan_again), count)


@dataclass(frozen=True)
class _Empty:
    """Plans a run in a worker, where tasks then do nothing."""

    plan_run: PlanRun

    def __call__(self, observer: Observer) -> WorkerPlan:
        _no_work().start()
        return self.plan_run(observer)


def _nothing(*tasks: object) -> None: ...


def _no_work() -> Any:
    return patch.dict(dispatch.FUNCTIONS, dict.fromkeys(dispatch.FUNCTIONS, _nothing))


class _Clock(Silent):
    """The times at which the first and the last task ended, and the number of tasks between them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def finished(self, task: Task, seconds: float) -> None:
        self.times.append(time.perf_counter())


def _measure(title: str, planned: PlannedRun, make_executor: Callable[[float], Executor] | None) -> None:
    clock = _Clock()
    with _no_work():
        execute(planned.plan, planned.context, clock, make_executor)
    tasks = len(clock.times) - 1
    seconds = clock.times[-1] - clock.times[0]
    print(f"{tasks:,} empty tasks, {title}: {1000 * seconds / tasks:.2f} ms a task", flush=True)
