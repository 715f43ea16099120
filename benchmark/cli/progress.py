"""The progress of a run: a live view in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark.cli.wording import KINDS, count_of, format_duration, sort_kinds
from benchmark.execution.observer import Observer, Silent
from benchmark.plan import tasks
from benchmark.plan.tasks import Task

_VERBS = {
    "train-target": "training",
    "train-defense": "training",
    "train-attack": "training",
    "train-substitute": "training",
    "purified-set": "purifying training images with",
    "train-bpda-network": "training the BPDA network for",
    "convergence-search": "searching the number of steps for",
    "consistency-check": "checking consistency of",
    "finite-difference-check": "checking gradients against finite differences for",
    "random-search": "searching random points for errors of",
    "gradient-probe": "checking gradients of",
    "craft": "crafting images with",
    "purify": "purifying with",
    "score": "scoring",
}
"""How a task of each kind begins in the terminal; the name of the plugin follows."""

_TRAININGS = ("train-target", "train-defense", "train-attack", "train-substitute")
_SLOW = (*_TRAININGS, "purified-set", "train-bpda-network", "craft", "convergence-search", "random-search")
"""Kinds that take most of the time: without a timing of each the time left is unknown."""

_LINE_EVERY = 10.0
"""Seconds between two plain lines of progress."""


def describe_task(task: Task) -> str:
    """Describe a task in a few words, such as "crafting images with pgd against mnist-c behind jpeg"."""
    if isinstance(task, tasks.ExternalImages):
        return f"reading the images from {task.origin}"
    is_loaded = isinstance(task, tasks.TrainTarget) and not task.target.trainable
    words = f"{'loading' if is_loaded else _VERBS[task.kind]} {task.label}"
    if isinstance(task, tasks.TrainTarget) and task.role != "target":
        words += f" ({task.role})"
    if isinstance(task, tasks.Craft | tasks.ConvergenceSearch | tasks.TrainAttack):
        surface = task.surfaces[0] if isinstance(task, tasks.ConvergenceSearch) else task.surface
        words += f" against {surface.target.label}"
        if surface.purifier is not None:
            words += f" behind {surface.purifier.name}"
    return words


class _TaskCounter(Silent):
    """Counts finished tasks, and estimates the time left from the mean time of each kind of task."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._remaining: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}
        self._total = 0
        self._done = 0
        self._reasons: set[str] = set()

    def begin(self, missing: Mapping[str, int], cached: Mapping[str, int]) -> None:
        self._remaining = dict(missing)
        self._total = sum(missing.values())
        self._print(_opening(missing, cached))

    def finished(self, task: Task, seconds: float) -> None:
        self._count(task)
        self._seconds.setdefault(task.kind, []).append(seconds)

    def failed(self, task: Task, reason: str) -> None:
        self._count(task)
        if reason not in self._reasons:
            self._reasons.add(reason)
            self._print(f"failed: {describe_task(task)}: {reason}", style="red")

    def note(self, message: str) -> None:
        self._print(message)

    def warn(self, message: str) -> None:
        self._print(f"warning: {message}", style="yellow")

    def _print(self, line: str, style: str | None = None) -> None:
        self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _count(self, task: Task) -> None:
        self._remaining[task.kind] -= 1
        self._done += 1

    def _time_left(self) -> str:
        means = {kind: sum(seconds) / len(seconds) for kind, seconds in self._seconds.items()}
        slow = [kind for kind, count in self._remaining.items() if count and kind in _SLOW]
        if not means or any(kind not in means for kind in slow):
            return "time left: unknown"
        seconds = sum(means.get(kind, 0.0) * count for kind, count in self._remaining.items())
        return f"time left: about {format_duration(seconds)}"


class PlainLines(_TaskCounter):
    """Prints a line for each training, and for other tasks a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = time.monotonic()

    def started(self, task: Task) -> None:
        if task.kind.startswith("train"):
            self._print_now(f"{describe_task(task)} on {_dataset(task)} …")

    def finished(self, task: Task, seconds: float) -> None:
        super().finished(task, seconds)
        if task.kind.startswith("train"):
            self._print_now(f"{describe_task(task)} took {seconds:.0f} s")
        elif time.monotonic() - self._last > _LINE_EVERY:
            self._print_now(f"{self._done}/{self._total} done: {describe_task(task)} ({self._time_left()})")

    def training(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if time.monotonic() - self._last > _LINE_EVERY:
            self._print_now(f"{describe_task(task)}: step {done} of {total}, {_format(metrics)}")

    def _print_now(self, line: str) -> None:
        self._last = time.monotonic()
        self._print(line)


class Live(_TaskCounter):
    """Shows a bar with the current task and the time left, and a second bar during a training."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._all_tasks: Any = None
        self._training: Any = None

    def begin(self, missing: Mapping[str, int], cached: Mapping[str, int]) -> None:
        super().begin(missing, cached)
        if self._total:
            self._all_tasks = self._progress.add_task("starting", total=self._total, note="")
            self._progress.start()

    def started(self, task: Task) -> None:
        self._progress.update(self._all_tasks, description=describe_task(task))

    def finished(self, task: Task, seconds: float) -> None:
        super().finished(task, seconds)
        self._end_training()
        if task.kind.startswith("train"):
            self._print(f"{describe_task(task)} took {seconds:.0f} s")
        self._progress.update(self._all_tasks, completed=self._done, note=self._time_left())

    def failed(self, task: Task, reason: str) -> None:
        super().failed(task, reason)
        self._end_training()
        self._progress.update(self._all_tasks, completed=self._done)

    def training(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if self._training is None:
            self._training = self._progress.add_task(f"  {_dataset(task)}", total=total, note="")
        self._progress.update(self._training, completed=done, note=_format(metrics))

    def _end_training(self) -> None:
        if self._training is not None:
            self._progress.remove_task(self._training)
            self._training = None

    def end(self) -> None:
        self._progress.stop()


def display_for(console: Console) -> Observer:
    """The live view if the console is a terminal, else plain lines."""
    return Live(console) if console.is_terminal else PlainLines(console)


def _opening(missing: Mapping[str, int], cached: Mapping[str, int]) -> str:
    stored = sum(cached.values())
    if not missing:
        return f"nothing to train, craft or score: all {stored} results are in the store"
    counts = ", ".join(f"{KINDS[kind]} ({missing[kind]})" for kind in sort_kinds(missing))
    done = f"already in the store: {count_of(stored, 'result')}"
    return f"to do: {count_of(sum(missing.values()), 'task')}: {counts}; {done}"


def _dataset(task: Task) -> str:
    trainings = (tasks.TrainTarget, tasks.TrainDefense, tasks.TrainAttack, tasks.TrainBpdaNetwork)
    return task.dataset.title if isinstance(task, trainings) else ""


def _format(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
