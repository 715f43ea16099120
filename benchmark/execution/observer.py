"""Receivers of the progress of a run."""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.plan.tasks import Task


class Observer:
    """Receives the progress of a run. Every method does nothing unless a subclass overrides it."""

    def begin(self, missing: Mapping[str, int], cached: Mapping[str, int]) -> None:
        """The numbers of tasks to compute and of tasks in the store, by kind."""

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
