"""Errors that are shown to people: what was given, where, what is known, what to do."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in what the user gave.

    `file` and `line` (from 1) say where, when there is a where; `hint` says what to do.
    """

    message: str
    file: str | None = None
    line: int | None = None
    hint: str | None = None

    def __str__(self) -> str:
        where = ""
        if self.file is not None:
            where = f"{self.file}:{self.line}: " if self.line is not None else f"{self.file}: "
        hint = f"\n    {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"


class UserError(Exception):
    """A mistake of the user's: shown without a traceback, exit status 2.

    Carries every problem found, so that all are mended in one go.
    """

    def __init__(self, problems: str | Problem | Sequence[Problem], hint: str | None = None) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems, hint=hint)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MissingImagesError(UserError):
    """Images are not where they are looked for: what needs none of them can go on."""


class PluginError(Exception):
    """A plugin broke its contract or raised; it fails its own cells and no others."""


class BudgetError(PluginError):
    """An attack asked for more passes than the grid allows: neither a failure nor robustness."""


@dataclass(frozen=True)
class Failure:
    """Why a task could not be done: something raised, or an attack ran into the grid's budget."""

    reason: str
    status: Literal["failed", "budget"] = "failed"


def worst(failures: Iterable[Failure | None]) -> Failure | None:
    """The first that is a fault, or else the first there is: a fault must not pass for a spent budget."""
    there = [failure for failure in failures if failure is not None]
    return next((failure for failure in there if failure.status == "failed"), there[0] if there else None)


def told(error: BaseException) -> str:
    """An exception of a plugin in one line: its type, its message, and the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known names closest to `name`, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "known: " + (", ".join(known) if known else "none")
