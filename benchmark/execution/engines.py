"""The contract of executors, which run the units of a schedule, and the one that uses this process.

The driver (`executor.execute`) decides what runs next. An executor runs it, and reports what happened as
events. Results go to the store, never through the executor.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmark.errors import BudgetError, Failure, PluginError, UserError, format_exception
from benchmark.execution.context import ExecutionContext
from benchmark.execution.dispatch import perform
from benchmark.execution.schedule import Unit
from benchmark.plan.tasks import Task


@dataclass(frozen=True)
class Began:
    """A submitted unit runs now."""

    unit: Unit


@dataclass(frozen=True)
class Finished:
    """The results of a unit are stored; `seconds` is the time of the whole unit."""

    unit: Unit
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A unit has no results."""

    unit: Unit
    failure: Failure


@dataclass(frozen=True)
class Died:
    """The process of a unit has ended, for `reason`; it is unknown whose fault that is."""

    unit: Unit
    reason: str


@dataclass(frozen=True)
class TrainingStep:
    """A training is at step `done` of `total`; `metrics` are losses or rates by name."""

    task: Task
    done: int
    total: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Message:
    """A line for the terminal."""

    text: str
    is_warning: bool


Event = Began | Finished | Failed | Died | TrainingStep | Message


class Executor(ABC):
    """Runs units, at most `slots` at once.

    The driver calls `submit` while fewer than `slots` units run, then `events` until all have ended, and
    `close` at the end, also after an exception.
    """

    slots: int

    @abstractmethod
    def submit(self, unit: Unit) -> None:
        """Start a unit. Its needed results are in the store."""

    @abstractmethod
    def events(self, timeout: float | None) -> Iterator[Event]:
        """What has happened; waits for the next event, at most `timeout` seconds if it is not None.

        For each submitted unit there is one `Began`, and then one `Finished`, `Failed` or `Died`. If its
        process ends before it comes to the unit, there is only `Died`.
        """

    @abstractmethod
    def cancel(self, unit: Unit) -> None:
        """Stop a unit that runs: its event is `Died`."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything that runs. Unfinished trainings keep their checkpoints."""


class InProcess(Executor):
    """Runs one unit after another in this process: for debuggers, notebooks, and one core."""

    slots = 1

    def __init__(self, context: ExecutionContext) -> None:
        self._context = context
        self._unit: Unit | None = None

    def submit(self, unit: Unit) -> None:
        self._unit = unit

    def events(self, timeout: float | None) -> Iterator[Event]:
        if (unit := self._unit) is not None:
            self._unit = None
            yield Began(unit)
            yield run_unit(unit, self._context)

    def cancel(self, unit: Unit) -> None:
        raise NotImplementedError("a unit that runs in this process cannot be stopped")

    def close(self) -> None:
        self._unit = None


def run_unit(unit: Unit, context: ExecutionContext) -> Finished | Failed:
    """Run a unit in this process. Whatever its plugins raise is its failure."""
    begin = time.perf_counter()
    first, *others = unit.tasks
    try:
        perform(first, context, *others)
    except BudgetError as error:
        return Failed(unit, Failure(str(error), "budget"))
    except (PluginError, UserError) as error:  # UserError: an image that cannot be read
        return Failed(unit, Failure(str(error)))
    except (Exception, SystemExit) as error:  # such as an error of a target: the run goes on without the cell
        return Failed(unit, Failure(format_exception(error)))
    return Finished(unit, time.perf_counter() - begin)
