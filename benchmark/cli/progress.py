"""The progress of a run: a live view in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Task as Row
from rich.text import Text

from benchmark.cli.wording import KINDS, count_of, format_duration, sort_kinds
from benchmark.execution.costs import CostModel
from benchmark.execution.observer import Observer, Silent
from benchmark.execution.remaining import RemainingWork
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

_BAR_WIDTH, _NOTE_WIDTH, _NUMBERS_WIDTH = 8, 26, 20
"""Columns of the live view; the names of the running tasks share the rest of the line."""

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
    """Counts finished tasks, knows what runs, and estimates the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._done = 0
        self._reasons: set[str] = set()
        self._running: dict[str, Task] = {}
        self._work: RemainingWork | None = None
        self._left = 0.0
        self._next_estimate = 0.0

    def begin(self, missing: Sequence[Task], cached: Sequence[Task], workers: int, costs: CostModel) -> None:
        self._total, self._done = len(missing), 0
        self._print(_opening(missing, cached))
        if missing:
            self._work = RemainingWork(missing, workers, costs)
            self._seconds_left()  # here: the first estimate reads timings, later ones only add numbers

    def started(self, task: Task) -> None:
        self._running[task.key] = task
        if self._work is not None:
            self._work.started(task)

    def finished(self, task: Task, seconds: float) -> None:
        self._count(task)

    def failed(self, task: Task, reason: str) -> None:
        self._count(task)
        if reason not in self._reasons:
            self._reasons.add(reason)
            self._print(f"failed: {describe_task(task)}: {reason}", style="red")

    def training(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if self._work is not None:
            self._work.training(task, done, total)

    def note(self, message: str) -> None:
        self._print(message)

    def warn(self, message: str) -> None:
        self._print(f"warning: {message}", style="yellow")

    def _print(self, line: str, style: str | None = None) -> None:
        self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _count(self, task: Task) -> None:
        self._running.pop(task.key, None)
        self._done += 1
        if self._work is not None:
            self._work.ended(task)

    def _seconds_left(self) -> float:
        """The estimated time left. Estimating takes at most a twentieth of the time of the run."""
        now = time.monotonic()
        if self._work is not None and now >= self._next_estimate:
            self._left = self._work.seconds()
            took = time.monotonic() - now
            self._next_estimate = now + max(1.0, 20 * took)
        return self._left


class PlainLines(_TaskCounter):
    """Prints a line for each training, and every ten seconds a line that names what runs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = time.monotonic()

    def started(self, task: Task) -> None:
        super().started(task)
        if task.kind.startswith("train"):
            self._print_now(f"{describe_task(task)} on {_dataset(task)} …")
        else:
            self._print_what_runs()

    def finished(self, task: Task, seconds: float) -> None:
        super().finished(task, seconds)
        if task.kind.startswith("train"):
            self._print_now(f"{describe_task(task)} took {seconds:.0f} s")
        else:
            self._print_what_runs()

    def training(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        super().training(task, done, total, metrics)
        if self._is_due():
            self._print_now(f"{describe_task(task)}: step {done} of {total}, {_format(metrics)}")

    def _print_what_runs(self) -> None:
        if self._running and self._is_due():
            names = Counter(describe_task(task) for task in list(self._running.values()))
            running = ", ".join(f"{n} ({c} times)" if c > 1 else n for n, c in names.items())
            left = format_duration(self._seconds_left())
            self._print_now(f"{self._done}/{self._total} done: {running} (time left: about {left})")

    def _is_due(self) -> bool:
        return time.monotonic() - self._last > _LINE_EVERY

    def _print_now(self, line: str) -> None:
        self._last = time.monotonic()
        self._print(line)


class Live(_TaskCounter):
    """Shows a bar of all tasks with their rate and the time left, and a line for each running task."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR_WIDTH),
            _Count(),
            TimeElapsedColumn(),
            _Note(self._summary),
            console=console,
            transient=True,
        )
        self._all_tasks: Any = None
        self._lines: dict[str, tuple[Any, set[str]]] = {}
        self._began = time.monotonic()

    def begin(self, missing: Sequence[Task], cached: Sequence[Task], workers: int, costs: CostModel) -> None:
        super().begin(missing, cached, workers, costs)
        if missing:
            self._began = time.monotonic()
            self._all_tasks = self._progress.add_task("all tasks", total=self._total, note=None)
            self._progress.start()

    def started(self, task: Task) -> None:
        super().started(task)
        line = _line_of(task)
        if line not in self._lines:
            width = max(16, self._console.width - _BAR_WIDTH - _NOTE_WIDTH - _NUMBERS_WIDTH)
            words = _shorten(f"  {describe_task(task)}", width)
            row = self._progress.add_task(words, total=None, note="")
            self._lines[line] = (row, set())
        self._lines[line][1].add(task.key)

    def finished(self, task: Task, seconds: float) -> None:
        super().finished(task, seconds)
        self._end_line(task)
        if task.kind.startswith("train"):
            self._print(f"{describe_task(task)} took {seconds:.0f} s")

    def failed(self, task: Task, reason: str) -> None:
        super().failed(task, reason)
        self._end_line(task)

    def training(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        super().training(task, done, total, metrics)
        if (line := self._lines.get(_line_of(task))) is not None:
            note = ", ".join(filter(None, [_dataset(task), _format(metrics)]))
            self._progress.update(line[0], completed=done, total=total, note=note)

    def _end_line(self, task: Task) -> None:
        """Remove the line of a task; the crafts of one sweep share a line until the last of them ends."""
        line = _line_of(task)
        if line in self._lines:
            row, keys = self._lines[line]
            keys.discard(task.key)
            if not keys:
                self._progress.remove_task(row)
                del self._lines[line]
        self._progress.update(self._all_tasks, completed=self._done)

    def _summary(self) -> str:
        """The rate and the time left; the display calls it while tasks run."""
        minutes = (time.monotonic() - self._began) / 60
        rate = f"{self._done / minutes:.0f}/min, " if self._done and minutes else ""
        return f"{rate}about {format_duration(self._seconds_left())} left"

    def end(self) -> None:
        self._progress.stop()


class _Count(ProgressColumn):
    """How many are done; nothing for a task that reports no steps."""

    def render(self, task: Row) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class _Note(ProgressColumn):
    """The note of a line; for the line without a note the summary of the run."""

    def __init__(self, summary: Callable[[], str]) -> None:
        super().__init__()
        self._summary = summary

    def render(self, task: Row) -> Text:
        note = task.fields["note"]
        return Text(self._summary() if note is None else _shorten(note, _NOTE_WIDTH))


def _shorten(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 1] + "…"


def _line_of(task: Task) -> str:
    """Equal for the crafts of one sweep, which run as one."""
    return task.sweep or task.key if isinstance(task, tasks.Craft) else task.key


def display_for(console: Console) -> Observer:
    """The live view if the console is a terminal, else plain lines."""
    return Live(console) if console.is_terminal else PlainLines(console)


def _opening(missing: Sequence[Task], cached: Sequence[Task]) -> str:
    if not missing:
        return f"nothing to train, craft or score: all {len(cached)} results are in the store"
    numbers = Counter(task.kind for task in missing)
    counts = ", ".join(f"{KINDS[kind]} ({numbers[kind]})" for kind in sort_kinds(numbers))
    done = f"already in the store: {count_of(len(cached), 'result')}"
    return f"to do: {count_of(len(missing), 'task')}: {counts}; {done}"


def _dataset(task: Task) -> str:
    trainings = (tasks.TrainTarget, tasks.TrainDefense, tasks.TrainAttack, tasks.TrainBpdaNetwork)
    return task.dataset.title if isinstance(task, trainings) else ""


def _format(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
