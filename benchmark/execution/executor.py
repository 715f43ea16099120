"""Running a plan with an executor. Stored results are reused, and a failed task does not stop the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from benchmark.errors import Failure, StoppedError
from benchmark.execution.context import ExecutionContext, Training, address
from benchmark.execution.costs import CostModel
from benchmark.execution.engines import (
    Began,
    Died,
    Event,
    Executor,
    Failed,
    Finished,
    InProcess,
    Message,
    TrainingStep,
)
from benchmark.execution.observer import Observer
from benchmark.execution.provenance import describe
from benchmark.execution.resources import ResourceModel
from benchmark.execution.schedule import Schedule, Unit
from benchmark.plan.plan import Plan
from benchmark.plan.tasks import Task


@dataclass
class Execution:
    """The outcome of a plan: the number of computed tasks by kind, and the failures by task key."""

    done: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)


def split_by_store(plan: Plan, context: ExecutionContext) -> tuple[list[Task], list[Task]]:
    """The tasks that the run has to compute, and those whose stored results it can reuse.

    A task that only serves stored results is in neither list: a missing adversarial image whose outcome is
    stored is not crafted.
    """
    store = context.store
    folders = {place for place in {(t.kind, t.label) for t in plan.tasks} if store.has_any(*place)}
    stored = {t.key for t in plan.tasks if (t.kind, t.label) in folders and store.has(address(t))}
    if context.reuse != "any":
        stored = _reusable(plan, stored, context)
    if not stored:
        return list(plan.tasks), []
    missing: set[str] = set()
    queue = [task for cell in plan.cells for task in cell.tasks if task.key not in stored]
    while queue:
        task = queue.pop()
        if task.key not in missing:
            missing.add(task.key)
            queue += [needed for needed in task.needs() if needed.key not in stored]
    return [t for t in plan.tasks if t.key in missing], [t for t in plan.tasks if t.key in stored]


def from_zoo(cached: Iterable[Task], context: ExecutionContext) -> Iterator[str]:
    """One line for each zoo below the store: how many reused trainings come from it."""
    trainings = (task for task in cached if task.kind.startswith("train"))
    counts = Counter(context.store.layer_of(address(task)) for task in trainings)
    for layer, count in counts.items():
        if layer is not None:
            yield f"{count} training{'' if count == 1 else 's'} from the zoo {layer}"


def _reusable(plan: Plan, stored: set[str], context: ExecutionContext) -> set[str]:
    """The stored results that `reuse` permits, if it permits all results that they were made from.

    With `same-code`, trainings are always reused: their gate shows whether they are good. Only
    `same-environment` trains them again.
    """
    refused: set[str] = set()
    for task in plan.tasks:  # each task comes after those that it needs
        if any(needed.key in refused for needed in task.needs()):
            refused.add(task.key)
        elif task.key in stored and not (context.reuse == "same-code" and isinstance(task, Training)):
            difference = context.difference(task)
            if difference is None or not difference.allows(context.reuse):
                refused.add(task.key)
    return stored - refused


@dataclass(frozen=True)
class Limits:
    """How long a run may take.

    Attributes:
        run_seconds: For the whole run; then it stops, and the same command continues it.
        task_seconds: For one task; then it is stopped and its cells fail. It needs worker processes.
    """

    run_seconds: float = float("inf")
    task_seconds: float = float("inf")


def execute(
    plan: Plan,
    context: ExecutionContext,
    observer: Observer,
    make_executor: Callable[[float], Executor] | None = None,
    limits: Limits | None = None,
) -> Execution:
    """Run the tasks of a plan whose results the store lacks.

    Args:
        make_executor: Gets the seconds that the tasks are expected to take in one process. By default the
            tasks run in this process.

    Raises:
        StoppedError: The time of the run is over.
    """
    missing, cached = split_by_store(plan, context)
    costs = CostModel(context.store, missing)
    executor: Executor = InProcess(context)
    if make_executor is not None and missing:
        executor = make_executor(sum(map(costs.seconds, missing)))
    observer.begin(missing, cached, executor.slots, costs)
    try:
        for line in from_zoo(cached, context):
            observer.note(line)
        # the lines above already name the zoos of the other results
        own = (task for task in cached if context.store.layer_of(address(task)) is None)
        differences = (context.difference(task) for task in own)
        warning = describe(difference for difference in differences if difference is not None)
        if warning is not None:
            observer.warn(warning)
        seconds = costs.seconds if executor.slots > 1 else None  # one process keeps the order of the plan
        resources = ResourceModel(context.registry, context.resources)
        schedule = Schedule(missing, seconds)
        return _Driver(schedule, executor, observer, limits or Limits(), costs, resources).run()
    finally:
        executor.close()
        observer.end()


_DEATHS = 2
"""A unit that ends its process so often is at fault. Once may be chance, such as a lack of memory."""


class _Driver:
    """Hands units to an executor, and follows what happens to them."""

    def __init__(
        self,
        schedule: Schedule,
        executor: Executor,
        observer: Observer,
        limits: Limits,
        costs: CostModel,
        resources: ResourceModel,
    ) -> None:
        self._resources = resources
        self._schedule = schedule
        self._executor = executor
        self._observer = observer
        self._limits = limits
        self._costs = costs
        self._end = time.monotonic() + limits.run_seconds
        self._started: dict[Unit, float] = {}  # infinity until it begins
        self._late: set[Unit] = set()
        self._deaths: Counter[Unit] = Counter()
        self._execution = Execution()

    def run(self) -> Execution:
        """Run all units."""
        while self._start_ready():
            for event in self._executor.events(self._timeout()):
                self._handle(event)
            self._stop_late()
        return self._execution

    def _start_ready(self) -> bool:
        """Start what can run, as far as the executor has slots; whether anything runs."""
        slots = self._executor.slots
        while len(self._started) < slots and (unit := self._schedule.take(self._fits)) is not None:
            self._started[unit] = float("inf")
            self._executor.submit(unit)
        return bool(self._started)

    def _fits(self, unit: Unit) -> bool:
        return self._resources.fits(unit.tasks[0], (running.tasks[0] for running in self._started))

    def _timeout(self) -> float | None:
        """Seconds until a limit is reached; None without limits."""
        first = min(self._end, min(self._started.values()) + self._limits.task_seconds)
        return None if first == float("inf") else max(0.0, first - time.monotonic())

    def _stop_late(self) -> None:
        now = time.monotonic()
        if now >= self._end:
            raise StoppedError
        for unit, began in self._started.items():
            if now - began >= self._limits.task_seconds and unit not in self._late:
                self._late.add(unit)
                self._executor.cancel(unit)

    def _handle(self, event: Event) -> None:
        match event:
            case Began(unit):
                self._started[unit] = time.monotonic()
                for task in unit.tasks:
                    self._observer.started(task)
            case Finished(unit, seconds):
                del self._started[unit]
                self._schedule.succeeded(unit)
                for task in unit.tasks:
                    self._execution.done[task.kind] += 1
                    self._costs.observe(task, seconds / len(unit.tasks))
                    self._observer.finished(task, seconds / len(unit.tasks))
            case Failed(unit, failure):
                self._fail(unit, failure)
            case Died(unit, reason):
                self._bury(unit, reason)
            case TrainingStep(task, done, total, metrics):
                self._observer.training(task, done, total, metrics)
            case Message(text, is_warning):
                (self._observer.warn if is_warning else self._observer.note)(text)

    def _bury(self, unit: Unit, reason: str) -> None:
        """Run a unit whose process has ended once more, or let it fail."""
        self._deaths[unit] += self._started[unit] < float("inf")  # else the unit cannot be at fault
        if unit in self._late:
            limit = self._limits.task_seconds
            self._fail(unit, Failure(f"it took longer than {limit:g} s and was stopped"))
        elif self._deaths[unit] == _DEATHS:
            self._fail(unit, Failure(f"its worker process ended twice, the last time {reason}"))
        else:
            self._observer.warn(f"{unit}: its worker process ended {reason}; it runs once more")
            del self._started[unit]
            self._schedule.put_back(unit)

    def _fail(self, unit: Unit, failure: Failure) -> None:
        del self._started[unit]
        self._record(unit, failure)
        for stopped, inherited in self._schedule.failed(unit, failure):
            self._record(stopped, inherited)

    def _record(self, unit: Unit, failure: Failure) -> None:
        for task in unit.tasks:
            self._execution.failures[task.key] = failure
            self._observer.failed(task, failure.reason)
