"""The time that a run still takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.execution.costs import CostModel
from benchmark.plan.tasks import Task

_OVERRUN = 0.1
"""A task that takes longer than expected is expected to take another tenth of its time so far."""


@dataclass
class _Running:
    """A running task, and the step of its training at its first and at its last report."""

    began: float
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    total: int = 0

    def left(self, expected: float, now: float, share: float) -> float:
        """Seconds until it ends. `share`: the part of a worker's time that it gets."""
        if self.first is not None and self.last is not None and self.last[1] > self.first[1]:
            rate = (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])
            return max(rate * (self.total - self.last[1]) - (now - self.last[0]), 0.0)
        elapsed = (now - self.began) * share
        return max(expected - elapsed, _OVERRUN * elapsed)


class RemainingWork:
    """The unfinished tasks of a run, and how long they take.

    Args:
        missing: All tasks to compute, each after those that it needs.
        workers: How many tasks run at once.
        costs: What each task costs.
        clock: The time in seconds.
    """

    def __init__(
        self,
        missing: Sequence[Task],
        workers: int,
        costs: CostModel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers, self._costs, self._clock = workers, costs, clock
        self._tasks = {task.key: task for task in missing}
        self._running: dict[str, _Running] = {}
        self._needs: dict[str, list[str]] = {}
        if workers > 1:  # with one worker the sum is never less than a chain
            for task in missing:
                self._needs[task.key] = [n.key for n in task.needs() if n.key in self._tasks]

    def started(self, task: Task) -> None:
        self._running[task.key] = _Running(self._clock())

    def ended(self, task: Task) -> None:
        """A task is finished or has failed."""
        self._tasks.pop(task.key, None)
        self._running.pop(task.key, None)

    def training(self, task: Task, done: int, total: int) -> None:
        """A training has reported a step; from its second report on its own speed counts."""
        running = self._running.get(task.key)
        if running is None:
            return
        report = (self._clock(), done)
        if running.first is None or running.last is None or done < running.last[1] or total != running.total:
            running.first = report  # also if the training begins another loop
        running.last, running.total = report, total

    def seconds(self) -> float:
        """The seconds of all unfinished tasks divided by the workers, at least those of the longest chain.

        A chain is a sequence of tasks each of which needs the one before.
        """
        now, running = self._clock(), dict(self._running)
        share = min(1.0, self._workers / max(1, len(running)))
        total, longest = 0.0, 0.0
        chains: dict[str, float] = {}
        for key, task in list(self._tasks.items()):
            seconds = self._costs.seconds(task)
            if key in running:
                seconds = running[key].left(seconds, now, share)
            total += seconds
            if self._workers > 1:
                before = max((chains.get(needed, 0.0) for needed in self._needs[key]), default=0.0)
                chains[key] = before + seconds
                longest = max(longest, chains[key])
        return max(total / self._workers, longest)
