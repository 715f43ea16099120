"""What a run shows: a live view on a terminal, plain lines in a pipe, nothing from Python."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark.executor import Observer
from benchmark.tasks import Craft, Effort, Task, TrainAttack, TrainDefense, TrainTarget

_VERBS = {
    "train-target": "training",
    "train-defense": "training",
    "train-attack": "training",
    "train-substitute": "training",
    "purified-set": "purifying training images with",
    "train-bpda-network": "teaching a net to do as",
    "convergence-search": "looking how much it takes of",
    "consistency-check": "examining",
    "finite-difference-check": "comparing gradients of",
    "random-search": "looking among random points for errors of",
    "gradient-probe": "probing",
    "craft": "crafting",
    "purify": "purifying",
    "score": "scoring",
}
_TRAININGS = ("train-target", "train-defense", "train-attack", "train-substitute")
_HEAVY = (*_TRAININGS, "purified-set", "train-bpda-network", "craft", "convergence-search", "random-search")

_LINE_EVERY = 10.0
"""Seconds between two plain lines of progress."""


def describe(task: Task) -> str:
    """A task in a few words."""
    given = isinstance(task, TrainTarget) and not task.target.trainable
    words = f"{'loading' if given else _VERBS[task.kind]} {task.label}"
    if isinstance(task, TrainTarget) and task.role != "target":
        words += f" ({task.role})"
    if isinstance(task, Craft | Effort | TrainAttack):
        surface = task.surfaces[0] if isinstance(task, Effort) else task.surface
        words += f" against {surface.target.label}"
        if surface.purifier is not None:
            words += f" behind {surface.purifier.name}"
    return words


class Silent:
    """Shows nothing."""

    def begin(self, missing: Mapping[str, int], cached: Mapping[str, int]) -> None: ...

    def started(self, task: Task) -> None: ...

    def finished(self, task: Task, seconds: float) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...

    def training(self, task: Task, done: int, total: int, figures: Mapping[str, float]) -> None: ...

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def end(self) -> None: ...


class _Counting(Silent):
    """Counts what is done and guesses what is left from the mean time of each kind of work."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._left: dict[str, int] = {}
        self._spent: dict[str, list[float]] = {}
        self._total = 0
        self._done = 0
        self._reasons: set[str] = set()

    def begin(self, missing: Mapping[str, int], cached: Mapping[str, int]) -> None:
        self._left = dict(missing)
        self._total = sum(missing.values())
        self._console.print(_opening(missing, cached), highlight=False, soft_wrap=True)

    def finished(self, task: Task, seconds: float) -> None:
        self._left[task.kind] -= 1
        self._spent.setdefault(task.kind, []).append(seconds)
        self._done += 1

    def failed(self, task: Task, reason: str) -> None:
        self._left[task.kind] -= 1
        self._done += 1
        if reason not in self._reasons:
            self._reasons.add(reason)
            self._console.print(
                f"failed: {describe(task)}: {reason}",
                style="red",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        self._console.print(
            f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    def _time_left(self) -> str:
        known = {kind: sum(spent) / len(spent) for kind, spent in self._spent.items()}
        # trainings and attacks take the time; nothing can be said before one of each was seen
        heavy = [kind for kind, left in self._left.items() if left and kind in _HEAVY]
        if not known or any(kind not in known for kind in heavy):
            return "time left unknown"
        seconds = sum(known.get(kind, 0.0) * left for kind, left in self._left.items())
        return f"about {_clock(seconds)} left"


class PlainLines(_Counting):
    """A line for each training, and one every few seconds for the rest."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = time.monotonic()

    def started(self, task: Task) -> None:
        if task.kind.startswith("train"):
            self._say(f"{describe(task)} on {_dataset(task)} …")

    def finished(self, task: Task, seconds: float) -> None:
        super().finished(task, seconds)
        if task.kind.startswith("train"):
            self._say(f"{describe(task)} took {seconds:.0f} s")
        elif time.monotonic() - self._last > _LINE_EVERY:
            self._say(f"{self._done}/{self._total} done, {describe(task)}, {self._time_left()}")

    def training(self, task: Task, done: int, total: int, figures: Mapping[str, float]) -> None:
        if time.monotonic() - self._last > _LINE_EVERY:
            self._say(f"{describe(task)}: step {done} of {total}, {_figures(figures)}")

    def _say(self, line: str) -> None:
        self._last = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Live(_Counting):
    """A bar for everything, with what goes on right now and the time left."""

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
        self._everything: Any = None
        self._fit: Any = None

    def begin(self, missing: Mapping[str, int], cached: Mapping[str, int]) -> None:
        super().begin(missing, cached)
        if self._total:
            self._everything = self._progress.add_task("starting", total=self._total, note="")
            self._progress.start()

    def started(self, task: Task) -> None:
        self._progress.update(self._everything, description=describe(task))

    def finished(self, task: Task, seconds: float) -> None:
        super().finished(task, seconds)
        self._end_training()
        if task.kind.startswith("train"):
            self._console.print(f"{describe(task)} took {seconds:.0f} s", markup=False, highlight=False)
        self._progress.update(self._everything, completed=self._done, note=self._time_left())

    def failed(self, task: Task, reason: str) -> None:
        super().failed(task, reason)
        self._end_training()
        self._progress.update(self._everything, completed=self._done)

    def training(self, task: Task, done: int, total: int, figures: Mapping[str, float]) -> None:
        if self._fit is None:
            self._fit = self._progress.add_task(f"  {_dataset(task)}", total=total, note="")
        self._progress.update(self._fit, completed=done, note=_figures(figures))

    def _end_training(self) -> None:
        if self._fit is not None:
            self._progress.remove_task(self._fit)
            self._fit = None

    def end(self) -> None:
        self._progress.stop()


def display_for(console: Console) -> Observer:
    """The live view on a terminal, plain lines elsewhere."""
    return Live(console) if console.is_terminal else PlainLines(console)


def _opening(missing: Mapping[str, int], cached: Mapping[str, int]) -> str:
    have = sum(cached.values())
    if not missing:
        return f"nothing to train, craft or score: all {have} results are in the store"
    parts = [f"{count} × {kind}" for kind, count in missing.items()]
    idle = [word for word, kinds in _IDLE.items() if not any(kind in missing for kind in kinds)]
    nothing = f"; no {' and no '.join(idle)}" if idle else ""
    return f"to do: {', '.join(parts)}; in the store: {have}{nothing}"


_IDLE = {"training": _TRAININGS, "attack": ("craft",)}


def _dataset(task: Task) -> str:
    return task.dataset.title if isinstance(task, TrainTarget | TrainDefense | TrainAttack) else ""


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
