"""The main function of a worker process; `workers` is the driver's side."""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmark.errors import UserError, format_exception
from benchmark.execution.engines import Finished, run_unit
from benchmark.execution.observer import Observer
from benchmark.execution.schedule import Unit
from benchmark.execution.workers import PlanRun, WorkerPlan
from benchmark.plan.tasks import Task
from benchmark.storage.environment import fixed_threads

_REPORT_SECONDS = 0.2
"""Reports of a training that come sooner are dropped."""


def main(descriptor: int) -> None:
    """Plan the run that the driver sends, then run the tasks whose keys it sends, until it hangs up."""
    faulthandler.enable()
    # No child process of a plugin may keep the connection open: its end is how the driver sees ours.
    os.set_inheritable(descriptor, False)
    os.register_at_fork(after_in_child=lambda: os.close(descriptor))
    connection = Connection(descriptor)
    plan_run: PlanRun = connection.recv()
    keys: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, keys), daemon=True).start()
    reports = _Reports(connection)
    try:
        plan = plan_run(reports)
    except Exception as error:  # planning imports plugins, which may raise anything
        reason = str(error) if isinstance(error, UserError) else format_exception(error)
        connection.send(("broken", f"a worker process cannot plan the run: {reason}"))
        return
    connection.send(("ready",))
    reports.is_planning = False
    with fixed_threads(plan.threads):
        while True:
            unit = keys.get()
            connection.send(("began",))
            connection.send(_outcome(unit, plan))


def _outcome(keys: Sequence[str], plan: WorkerPlan) -> tuple[Any, ...]:
    """Run a unit; the message that says how it ended."""
    if unknown := [key for key in keys if key not in plan.tasks]:
        return ("broken", f"a worker process plans another run: it has no task {unknown[0][:12]}")
    event = run_unit(Unit(tuple(plan.tasks[key] for key in keys)), plan.context)
    if isinstance(event, Finished):
        return ("finished", event.seconds)
    return ("failed", event.failure.reason, event.failure.status)


def _receive(connection: Connection, keys: queue.SimpleQueue[Sequence[str]]) -> None:
    """Take what the driver sends. If the driver is gone, end at once, with all processes of plugins.

    A thread of its own, because the main thread may be in the middle of a long training.
    """
    while True:
        try:
            keys.put(connection.recv())
        except (EOFError, OSError):
            os.killpg(os.getpgrp(), signal.SIGKILL)


class _Reports(Observer):
    """Sends notes, warnings and the progress of trainings to the driver.

    Attributes:
        is_planning: Messages are dropped, because the driver has planned the same run and has said the same.
    """

    def __init__(self, connection: Connection) -> None:
        self.is_planning = True
        self._connection = connection
        self._last = 0.0

    def training(self, task: Task, done: int, total: int, figures: Mapping[str, float]) -> None:
        if time.monotonic() - self._last >= _REPORT_SECONDS:
            self._last = time.monotonic()
            self._connection.send(("training", task.key, done, total, dict(figures)))

    def note(self, message: str) -> None:
        self._send(message, is_warning=False)

    def warn(self, message: str) -> None:
        self._send(message, is_warning=True)

    def _send(self, message: str, *, is_warning: bool) -> None:
        if not self.is_planning:
            self._connection.send(("message", message, is_warning))
