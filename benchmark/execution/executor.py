"""Running a plan in this process. Stored results are reused, and a failed task does not stop the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from benchmark.errors import BudgetError, Failure, PluginError, UserError, format_exception, most_severe
from benchmark.execution.context import ExecutionContext, Training, address
from benchmark.execution.costs import CostModel
from benchmark.execution.dispatch import perform
from benchmark.execution.observer import Observer
from benchmark.execution.provenance import describe
from benchmark.plan.plan import Plan
from benchmark.plan.tasks import Craft, Task


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


def execute(plan: Plan, context: ExecutionContext, observer: Observer) -> Execution:
    """Run the tasks of a plan whose results the store lacks, in order."""
    missing, cached = split_by_store(plan, context)
    execution = Execution()
    costs = CostModel(context.store, missing)
    observer.begin(missing, cached, 1, costs)
    for line in from_zoo(cached, context):
        observer.note(line)
    # the lines above already name the zoos of the other results
    own = (task for task in cached if context.store.layer_of(address(task)) is None)
    differences = (context.difference(task) for task in own)
    if (warning := describe(difference for difference in differences if difference is not None)) is not None:
        observer.warn(warning)
    sweeps: dict[str, list[Task]] = {}
    for task in missing:
        if isinstance(task, Craft) and task.sweep is not None:
            sweeps.setdefault(task.sweep, []).append(task)
    finished: set[str] = set()
    for task in missing:
        if task.key in finished or task.key in execution.failures:
            continue
        inherited = most_severe(execution.failures.get(needed.key) for needed in task.needs())
        if inherited is not None:
            execution.failures[task.key] = inherited
            observer.failed(task, inherited.reason)
            continue
        group = sweeps[task.sweep] if isinstance(task, Craft) and task.sweep is not None else [task]
        _perform_group(group, context, observer, execution, costs)
        finished.update(member.key for member in group)
    observer.end()
    return execution


def _perform_group(
    group: list[Task], context: ExecutionContext, observer: Observer, execution: Execution, costs: CostModel
) -> None:
    """Run one task, or the crafts of one sweep, which fail or succeed together."""
    for task in group:
        observer.started(task)
    begin = time.perf_counter()
    try:
        perform(group[0], context, *group[1:])
    except BudgetError as error:
        failure = Failure(str(error), "budget")
    except (PluginError, UserError) as error:  # UserError: an image that cannot be read
        failure = Failure(str(error))
    except (Exception, SystemExit) as error:  # such as an error of a target: the run goes on without the cell
        failure = Failure(format_exception(error))
    else:
        seconds = (time.perf_counter() - begin) / len(group)
        for task in group:
            execution.done[task.kind] += 1
            costs.observe(task, seconds)
            observer.finished(task, seconds)
        return
    for task in group:
        execution.failures[task.key] = failure
        observer.failed(task, failure.reason)
