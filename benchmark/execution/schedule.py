"""The order of work: which tasks can run now, and which cannot run any more."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmark.errors import Failure, most_severe
from benchmark.plan.tasks import Craft, Task


@dataclass(frozen=True, eq=False)
class Unit:
    """Tasks that run together and succeed or fail together: one task, or the crafts of one sweep."""

    tasks: tuple[Task, ...]

    def __str__(self) -> str:
        more = f" and {len(self.tasks) - 1} more" if len(self.tasks) > 1 else ""
        return f"{self.tasks[0].kind} {self.tasks[0].label}{more}"


class Schedule:
    """The units of a run, and which of them can run: those whose needed results exist.

    Args:
        tasks: The tasks to compute, each after the tasks that it needs. Other needed results are stored.
        seconds: How long a task takes. Units at the start of the longest chains then come first, so that no
            long training is left for the end. Without it the order is that of the tasks.
    """

    def __init__(self, tasks: Sequence[Task], seconds: Callable[[Task], float] | None = None) -> None:
        self._units = _units(tasks)
        number = {task.key: index for index, unit in enumerate(self._units) for task in unit.tasks}
        self._needs = [_needs(index, unit, number) for index, unit in enumerate(self._units)]
        self._missing = [len(needs) for needs in self._needs]
        self._dependents: list[list[int]] = [[] for _ in self._units]
        for index, needs in enumerate(self._needs):
            for needed in needs:
                self._dependents[needed].append(index)
        self._number = number
        self._rank = [0.0] * len(self._units) if seconds is None else self._chains(seconds)
        self._failures: dict[int, Failure] = {}
        self._ready: list[tuple[float, int]] = []
        self._add_ready(index for index, missing in enumerate(self._missing) if not missing)

    def take(self, fits: Callable[[Unit], bool] = lambda unit: True) -> Unit | None:
        """The next unit that can run now; None if there is none, or if it does not fit.

        No other unit overtakes one that does not fit, so that it will fit some time.
        """
        if not self._ready or not fits(self._units[self._ready[0][1]]):
            return None
        return self._units[heapq.heappop(self._ready)[1]]

    def put_back(self, unit: Unit) -> None:
        """Let a unit run again that was taken and could not be finished."""
        self._add_ready([self._index(unit)])

    def succeeded(self, unit: Unit) -> None:
        """Say that the results of a unit exist."""
        self._settle(self._index(unit))

    def failed(self, unit: Unit, failure: Failure) -> Iterator[tuple[Unit, Failure]]:
        """Say that a unit has failed; yields the units that cannot run because of it, with their failures."""
        self._failures[self._index(unit)] = failure
        settled = [self._index(unit)]
        while settled:
            for index in self._settle(settled.pop()):
                inherited = most_severe(self._failures.get(needed) for needed in self._needs[index])
                assert inherited is not None
                self._failures[index] = inherited
                settled.append(index)
                yield self._units[index], inherited

    def _settle(self, index: int) -> list[int]:
        """Count a unit as done. Units that it held up become ready; returns those that a failure stops."""
        ready: list[int] = []
        stopped: list[int] = []
        for dependent in self._dependents[index]:
            self._missing[dependent] -= 1
            if not self._missing[dependent]:
                stops = not self._failures.keys().isdisjoint(self._needs[dependent])
                (stopped if stops else ready).append(dependent)
        self._add_ready(ready)
        return stopped

    def _index(self, unit: Unit) -> int:
        return self._number[unit.tasks[0].key]

    def _add_ready(self, indices: Iterable[int]) -> None:
        for index in indices:
            heapq.heappush(self._ready, (-self._rank[index], index))

    def _chains(self, seconds: Callable[[Task], float]) -> list[float]:
        """For each unit the time of the longest chain of units that starts with it."""
        chains = [0.0] * len(self._units)
        for index in self._in_reverse():
            own = sum(seconds(task) for task in self._units[index].tasks)
            chains[index] = own + max((chains[after] for after in self._dependents[index]), default=0.0)
        return chains

    def _in_reverse(self) -> Iterator[int]:
        """Every unit before the units that it needs."""
        waiting = [len(after) for after in self._dependents]
        free = [index for index, count in enumerate(waiting) if not count]
        while free:
            index = free.pop()
            yield index
            for needed in self._needs[index]:
                waiting[needed] -= 1
                if not waiting[needed]:
                    free.append(needed)


def _units(tasks: Sequence[Task]) -> list[Unit]:
    """The tasks in units, in the order of each unit's first task."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        sweep = task.sweep if isinstance(task, Craft) else None
        groups.setdefault(task.key if sweep is None else f"sweep {sweep}", []).append(task)
    return [Unit(tuple(group)) for group in groups.values()]


def _needs(index: int, unit: Unit, number: dict[str, int]) -> list[int]:
    """The numbers of the other units that compute what this unit needs, each once."""
    keys = (need.key for task in unit.tasks for need in task.needs())
    needed = dict.fromkeys(number[key] for key in keys if key in number)
    return [other for other in needed if other != index]
