"""Receivers of the progress of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark.execution.costs import CostModel
from benchmark.plan.tasks import Task


class Observer:
    """Receives the progress of a run. Every method does nothing unless a subclass overrides it.

    Several tasks may run at once: each has been started, and is neither finished nor failed. A task whose
    inputs are missing fails without having been started.
    """

    def begin(self, missing: Sequence[Task], cached: Sequence[Task], workers: int, costs: CostModel) -> None:
        """A run begins.

        Args:
            missing: The tasks to compute, each after those that it needs.
            cached: The tasks whose results are in the store.
            workers: How many tasks may run at once.
            costs: What tasks cost; learns from each finished task before `finished` is called.
        """

    def started(self, task: Task) -> None: ...

    def finished(self, task: Task, seconds: float) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...

    def training(self, task: Task, done: int, total: int, figures: Mapping[str, float]) -> None:
        """A training is at step `done` of `total`; `figures` are losses or rates by name."""

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def end(self) -> None: ...


class Silent(Observer):
    """Ignores all progress."""
