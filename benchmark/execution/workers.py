"""Runs units in worker processes on this machine.

A worker is a new Python process. It plans the run once, as the driver did, and gets keys of tasks. Results
go to the store. Workers share nothing else, so one that dies takes down its own unit only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Pipe, wait
from typing import Any

from benchmark.errors import Failure, UserError
from benchmark.execution.context import ExecutionContext
from benchmark.execution.engines import Began, Died, Event, Executor, Failed, Finished, Message, TrainingStep
from benchmark.execution.observer import Observer
from benchmark.execution.schedule import Unit
from benchmark.plan.tasks import Task


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker runs: tasks by key, in a context, with a number of CPU threads."""

    tasks: Mapping[str, Task]
    context: ExecutionContext
    threads: int


PlanRun = Callable[[Observer], WorkerPlan]
"""Plans a run in a worker process. It must be possible to pickle it."""

_START = "import sys; sys.path[:] = {path!r}; from benchmark.execution.worker import main; main({descriptor})"
_LINES = 20
_LONGEST_LINE = 10_000
"""Bytes; longer lines of a plugin are broken."""
_ENDING_SECONDS = 2.0
_FAILED_STARTS = 3
"""So many workers that end one after another before they are ready are no accident."""


class LocalWorkers(Executor):
    """Runs up to `count` units at once, each in a worker process. Workers are started when they are needed.

    Args:
        plan_run: Sent to each worker, which calls it once.
        count: Maximum number of workers.
        environments: Variables of the environment, such as the GPU to use. Workers take them in turn.
    """

    def __init__(
        self, plan_run: PlanRun, count: int, environments: Sequence[Mapping[str, str]] = ({},)
    ) -> None:
        self.slots = count
        self._plan_run = plan_run
        self._environments = environments
        self._workers: list[_Worker] = []
        self._number = 0
        self._failed_starts = 0

    def submit(self, unit: Unit) -> None:
        worker = next((worker for worker in self._workers if worker.unit is None), None)
        if worker is None:
            environment = self._environments[self._number % len(self._environments)]
            self._number += 1
            worker = _Worker(self._plan_run, environment)
            self._workers.append(worker)
        worker.run(unit)

    def events(self, timeout: float | None) -> Iterator[Event]:
        sources: list[Any] = [worker.connection for worker in self._workers]
        sources += [worker.output for worker in self._workers if not worker.is_silent]
        changed: list[Any] = wait(sources, timeout)
        for worker in [w for w in self._workers if w.connection in changed or w.output in changed]:
            was_ready = worker.is_ready
            yield from worker.read()
            if worker.is_ready and not was_ready:
                self._failed_starts = 0
            if worker.has_ended:
                self._workers.remove(worker)
                self._failed_starts += not worker.is_ready
                if self._failed_starts == _FAILED_STARTS:
                    yield self._with_fewer(worker)

    def _with_fewer(self, failed: _Worker) -> Message:
        """Go on with the workers that could be started."""
        ready = sum(worker.is_ready for worker in self._workers)
        fault = f"worker processes end while they start, {failed.cause()}"
        if not ready:
            raise _error(fault)
        self.slots, self._failed_starts = ready, 0
        return Message(f"{fault}; the run continues with {ready}", is_warning=True)

    def cancel(self, unit: Unit) -> None:
        for worker in self._workers:
            if worker.unit is unit:
                worker.kill()

    def close(self) -> None:
        for worker in self._workers:
            if worker.unit is None:
                worker.connection.close()  # it ends by itself
            else:
                worker.kill()
        deadline = time.monotonic() + _ENDING_SECONDS
        for worker in self._workers:
            worker.end(deadline)
        self._workers = []


class _Worker:
    """A worker process, as the driver sees it.

    Attributes:
        unit: What it runs.
        output: Its standard output and error.
        is_ready: Whether it has planned the run.
        is_silent: Whether it has closed its output.
        has_ended: Whether it must not be used any more.
    """

    def __init__(self, plan_run: PlanRun, environment: Mapping[str, str]) -> None:
        self.connection, other_end = Pipe()
        path = [entry for entry in sys.path if isinstance(entry, str)]
        code = _START.format(path=path, descriptor=other_end.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            pass_fds=[other_end.fileno()],
            start_new_session=True,  # Ctrl-C reaches the driver alone, and `kill` reaches all its processes
        )
        other_end.close()
        assert self._process.stdout is not None
        self.output = self._process.stdout
        os.set_blocking(self.output.fileno(), False)
        self.unit: Unit | None = None
        self.is_silent = self.has_ended = self.is_ready = False
        self._partial = b""
        self._last_lines: deque[str] = deque(maxlen=_LINES)
        self._send(plan_run)

    def run(self, unit: Unit) -> None:
        self.unit = unit
        self._send([task.key for task in unit.tasks])

    def read(self) -> Iterator[Event]:
        """What the worker has reported; if it has ended, also that."""
        messages, ended = self._received()
        yield from self._read_output()
        for kind, *details in messages:
            yield from self._event(kind, details)
        if ended:
            self.has_ended = True
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING_SECONDS)  # it may be about to end
            self.kill()
            self._process.wait()
            yield from self._read_output()
            if self.unit is not None:
                yield Died(self.unit, self.cause())

    def kill(self) -> None:
        """End the process and the processes that it has started."""
        with suppress(ProcessLookupError, PermissionError):  # it has ended already
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, deadline: float) -> None:
        """Wait for the end of the process; kill it at `deadline` (of `time.monotonic`)."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self.kill()
        self._process.wait()
        self.output.close()
        self.connection.close()

    def _send(self, message: object) -> None:
        with suppress(OSError):  # it has ended: `read` finds that
            self.connection.send(message)

    def _received(self) -> tuple[list[tuple[Any, ...]], bool]:
        """The messages that have arrived, and whether no more can come."""
        messages: list[tuple[Any, ...]] = []
        try:
            while self.connection.poll():
                messages.append(self.connection.recv())
        except (EOFError, OSError):
            return messages, True
        return messages, False

    def _event(self, kind: str, details: list[Any]) -> Iterator[Event]:
        match kind, details, self.unit:
            case "ready", [], _:
                self.is_ready = True
            case "began", [], Unit() as unit:
                yield Began(unit)
            case "broken", [reason], _:
                raise _error(reason)
            case "message", [text, is_warning], _:
                yield Message(text, is_warning)
            case "training", [key, done, total, metrics], Unit(tasks):
                task = next((task for task in tasks if task.key == key), None)
                if task is not None:  # else a lost result that the unit needs
                    yield TrainingStep(task, done, total, metrics)
            case "finished", [seconds], Unit() as unit:
                self.unit = None
                yield Finished(unit, seconds)
            case "failed", [reason, status], Unit() as unit:
                self.unit = None
                yield Failed(unit, Failure(reason, status))

    def _read_output(self) -> Iterator[Message]:
        """The complete lines that the worker's plugins and libraries have printed."""
        content = b""
        try:
            while part := os.read(self.output.fileno(), 65536):
                content += part
            self.is_silent = True
        except BlockingIOError:
            pass
        *lines, self._partial = (self._partial + content).split(b"\n")
        if self._partial and (self.is_silent or len(self._partial) > _LONGEST_LINE):
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            text = line[:_LONGEST_LINE].decode(errors="replace")
            self._last_lines.append(text)
            yield Message(text, is_warning=False)

    def cause(self) -> str:
        """How the process has ended, in words, with the last line that it printed if no signal ended it."""
        status = self._process.returncode
        if status >= 0:
            last = f": {self._last_lines[-1]}" if self._last_lines else ""
            return f"with exit status {status}{last}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        hint = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"by the signal {name}{hint}"


def _error(reason: str) -> UserError:
    return UserError(reason, hint="`--workers 1` runs everything in one process")
