"""Errors that are shown to the user, and hints for their messages."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """One mistake in the user's input.

    Attributes:
        file: The file with the mistake, if there is one.
        line: The line in that file, counted from 1.
        hint: What the user can do about it.
    """

    message: str
    file: str | None = None
    line: int | None = None
    hint: str | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f"{self.line}:"
        location = "" if self.file is None else f"{self.file}:{line} "
        hint = f"\n    {self.hint}" if self.hint else ""
        return f"{location}{self.message}{hint}"


class UserError(Exception):
    """The user's input is wrong. `bench` prints the message without a traceback and exits with status 2.

    It carries every problem that was found, so that the user can correct all of them at once.
    """

    def __init__(self, problems: str | Problem | Sequence[Problem], hint: str | None = None) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems, hint=hint)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MissingImagesError(UserError):
    """The images of a data set were not found. Work that does not need them can go on."""


class PluginError(Exception):
    """A plugin broke its contract or raised. Only the cells that use it fail."""


class BudgetError(PluginError):
    """An attack needs more passes than the budget of the grid. The cell is neither failed nor robust."""


class StoppedError(BaseException):
    """The time of a run is over. Not an `Exception`: no code that runs tasks may take it for a failure."""


@dataclass(frozen=True)
class Failure:
    """Why a task has no result: it raised (`failed`), or its attack exceeded the grid's budget (`budget`)."""

    reason: str
    status: Literal["failed", "budget"] = "failed"


def most_severe(failures: Iterable[Failure | None]) -> Failure | None:
    """The first failure with status `failed`, or else the first one: `budget` must not hide a fault."""
    found = [failure for failure in failures if failure is not None]
    return min(found, key=lambda failure: failure.status == "budget", default=None)


def format_exception(error: BaseException) -> str:
    """An exception in one line: its type, its message, and the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{location}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the known names that are closest to `name`, or with all of them if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "known: " + (", ".join(known) if known else "none")
