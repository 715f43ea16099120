"""Running a plan in this process: what the store has is not done again, what fails fails alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol as Interface

from benchmark.errors import BudgetError, Failure, PluginError, UserError, told, worst
from benchmark.plan import Plan
from benchmark.tasks import Craft, Task, TrainAttack, TrainDefense, TrainTarget
from benchmark.work.perform import perform, perform_sweep
from benchmark.work.provenance import describe
from benchmark.work.workshop import Workshop, address


class Observer(Interface):
    """Who wants to know how a run goes."""

    def begin(self, missing: Mapping[str, int], cached: Mapping[str, int]) -> None:
        """How many tasks of each kind have to be done, and how many are in the store."""

    def started(self, task: Task) -> None: ...

    def finished(self, task: Task, seconds: float) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...

    def training(self, task: Task, done: int, total: int, figures: Mapping[str, float]) -> None: ...

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def end(self) -> None: ...


_TRAININGS = (TrainTarget, TrainDefense, TrainAttack)


@dataclass
class Execution:
    """What came of a plan. `failures` tells of each task that could not be done, by its key."""

    done: dict[str, int] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


def split_by_store(plan: Plan, workshop: Workshop) -> tuple[list[Task], list[Task]]:
    """The tasks that have to be done, and those whose results the store has and the run may take.

    What only serves results that are there already is not done: a missing image whose outcome is
    stored is not crafted.
    """
    store = workshop.store
    begun = {place for place in {(task.kind, task.label) for task in plan.tasks} if store.has_any(*place)}
    stored = {
        task.key for task in plan.tasks if (task.kind, task.label) in begun and store.has(address(task))
    }
    if workshop.reuse != "any":
        stored = _allowed(plan, stored, workshop)
    if not stored:
        return list(plan.tasks), []
    wanted: dict[str, Task] = {}
    finals = [task for cell in plan.cells for task in cell.tasks]
    waiting = [task for task in finals if task.key not in stored]
    while waiting:
        task = waiting.pop()
        if task.key not in wanted:
            wanted[task.key] = task
            waiting += [needed for needed in task.needs() if needed.key not in stored]
    return [t for t in plan.tasks if t.key in wanted], [t for t in plan.tasks if t.key in stored]


def from_zoo(cached: Iterable[Task], workshop: Workshop) -> Iterator[str]:
    """How many of the results that need not be computed come from which layer below the store."""
    counts = Counter(
        workshop.store.layer_of(address(task)) for task in cached if task.kind.startswith("train")
    )
    for layer, count in counts.items():
        if layer is not None:
            yield f"{count} training{'' if count == 1 else 's'} from the zoo {layer}"


def _allowed(plan: Plan, stored: set[str], workshop: Workshop) -> set[str]:
    """The stored results that the run may take: neither they nor what they were made from are refused.

    A training counts under its key, whatever code made it; its gate says whether it came out well. Only
    where libraries matter as well it is made again.
    """
    refused: set[str] = set()
    for task in plan.tasks:  # each comes after those that it needs
        if any(needed.key in refused for needed in task.needs()):
            refused.add(task.key)
        elif task.key in stored and not (workshop.reuse == "same-code" and isinstance(task, _TRAININGS)):
            difference = workshop.difference(task)
            if difference is None or not difference.allows(workshop.reuse):
                refused.add(task.key)
    return stored - refused


def execute(plan: Plan, workshop: Workshop, observer: Observer) -> Execution:
    """Do the tasks of a plan that the store lacks, in order."""
    missing, cached = split_by_store(plan, workshop)
    execution = Execution()
    observer.begin(_by_kind(missing), _by_kind(cached))
    for line in from_zoo(cached, workshop):
        observer.note(line)
    # of what comes from a zoo the layer is named already
    own = (task for task in cached if workshop.store.layer_of(address(task)) is None)
    found = (workshop.difference(task) for task in own)
    notice = describe(difference for difference in found if difference is not None)
    if notice is not None:
        observer.warn(notice)
    sweeps = _sweeps(missing)
    finished: set[str] = set()
    for task in missing:
        if task.key in finished or task.key in execution.failures:
            continue
        inherited = worst(execution.failures.get(needed.key) for needed in task.needs())
        if inherited is not None:
            execution.failures[task.key] = inherited
            observer.failed(task, inherited.reason)
            continue
        group: list[Task] = [task]
        if isinstance(task, Craft) and task.sweep is not None:
            group = list(sweeps[task.sweep])
        _do(group, workshop, observer, execution)
        finished.update(member.key for member in group)
    observer.end()
    return execution


def _do(group: list[Task], workshop: Workshop, observer: Observer, execution: Execution) -> None:
    for task in group:
        observer.started(task)
    begin = time.perf_counter()
    try:
        crafts = [task for task in group if isinstance(task, Craft)]
        if len(crafts) > 1:
            perform_sweep(crafts, workshop)
        else:
            perform(group[0], workshop)
    except BudgetError as end:
        failure = Failure(str(end), "budget")
    except (PluginError, UserError) as fault:  # the user's: an image that cannot be read
        failure = Failure(str(fault))
    except (Exception, SystemExit) as error:  # a target or a trainer: the cell fails, the run goes on
        failure = Failure(told(error))
    else:
        for task in group:
            execution.done[task.kind] = execution.done.get(task.kind, 0) + 1
            observer.finished(task, (time.perf_counter() - begin) / len(group))
        return
    for task in group:
        execution.failures[task.key] = failure
        observer.failed(task, failure.reason)


def _sweeps(tasks: list[Task]) -> dict[str, list[Craft]]:
    groups: dict[str, list[Craft]] = {}
    for task in tasks:
        if isinstance(task, Craft) and task.sweep is not None:
            groups.setdefault(task.sweep, []).append(task)
    return groups


def _by_kind(tasks: list[Task]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for task in tasks:
        counts[task.kind] = counts.get(task.kind, 0) + 1
    return counts
