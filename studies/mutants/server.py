"""Runs tests in forks of a process that has imported the libraries already.

It is started in a copy of the repository, with the names of the libraries as arguments. It reads one request
per line, such as
`{"tests": ["tests/metrics"], "cpu_seconds": 20, "seconds": 400}`, and answers with one line, such as
`{"outcome": "killed", "test": "tests/metrics/test_stats.py::test_x", "cpu_seconds": 1.5}`. A fork saves the
seconds that the libraries take.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

_MEMORY = 16 * 2**30
_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "--no-header")
_OUTPUT = Path(".trial.log")


class _FirstFailure:
    """A plugin of pytest that keeps the name of the first test that fails."""

    def __init__(self) -> None:
        self.test = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid or "collection"


def main() -> None:
    """Answer requests until the input ends."""
    sys.path[0] = os.getcwd()  # instead of the folder of this file
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_trial(json.loads(line))), flush=True)


def _trial(request: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        os.close(reading)
        _run(request, writing)
    os.close(writing)
    readable, _, _ = select.select([reading], [], [], request["seconds"])
    answer = os.read(reading, 4096).decode() if readable else ""
    signalled = _end(child)
    os.close(reading)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if not answer:
        hung = not readable or signalled == signal.SIGXCPU
        return {"outcome": "hung" if hung else "crashed", "test": "", "cpu_seconds": seconds}
    return {**json.loads(answer), "cpu_seconds": seconds}


def _end(child: int) -> int:
    """End the fork and every process that its tests started; the signal that ended the fork, or 0."""
    deadline, ended, status = time.monotonic() + 1, 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0 if ended else 0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _run(request: dict[str, Any], writing: int) -> None:
    """In the fork: run the tests, write the outcome and end the process."""
    os.setsid()
    limit = max(1, int(request["cpu_seconds"]))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with _OUTPUT.open("w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    sys.dont_write_bytecode = not request.get("warm", False)
    sys.argv = ["pytest"]
    import pytest

    first = _FirstFailure()
    code = pytest.main([*_OPTIONS, "--basetemp=.trial", *request["tests"]], plugins=[first])
    outcome = {0: "survived", 1: "killed"}.get(int(code), "broken")
    sys.stdout.flush()
    os.write(writing, json.dumps({"outcome": outcome, "test": first.test[-300:]}).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
