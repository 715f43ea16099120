"""Worker processes: the same figures as in one process, whatever happens to the processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import pytest

from benchmark.errors import StoppedError, UserError
from benchmark.execution.executor import Limits
from benchmark.execution.observer import Observer, Silent
from benchmark.plan.tasks import Task
from benchmark.results.records import TIMINGS
from benchmark.runs import CompletedRun, execute_run, plan_run
from studies import REPOSITORY

PLUGINS = [REPOSITORY / "tests" / "plugin_files" / name for name in ("toy.py", "deadly.py")]
GRID: dict[str, Any] = {
    "name": "workers",
    "datasets": [{"name": "digits", "n": 120}],
    "targets": ["nearest-mean"],
    "defenses": ["shift", "gaussian-noise"],
    "source": "target",
    "attacks": [{"name": "fgsm", "eps": [0.05, 0.1]}, {"name": "pgd", "eps": 0.1, "steps": 3}],
    "threats": ["black-box", "white-box"],
}


class Lines(Observer):
    """Remembers what it is sent."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.seconds: dict[str, float] = {}

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def finished(self, task: Task, seconds: float) -> None:
        self.seconds[task.key] = seconds


def run(folder: Path, observer: Observer | None = None, *, workers: int = 2, **keys: Any) -> CompletedRun:
    limits = keys.pop("limits", None)
    observer = observer or Silent()
    planned = plan_run(GRID | keys, observer, store=str(folder / "store"), plugins=PLUGINS, device="cpu")
    return execute_run(planned, observer, folder / "out", workers=workers, limits=limits)


def untimed(folder: Path, file: str = "records.csv") -> pd.DataFrame:
    rows = pd.read_csv(folder / "out" / file, dtype=str, keep_default_na=False)
    return rows.drop(columns=list(TIMINGS), errors="ignore")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the grid in one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, workers=1)
    return folder


def processes_of(session: int) -> list[int]:
    """The running processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended in the meantime
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def children() -> list[int]:
    """The processes that this one has started, the workers among them."""
    path = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
    return [int(text) for text in path.read_text().split()]


def test_workers_give_the_same_figures(alone: Path, tmp_path: Path) -> None:
    run(tmp_path)
    pd.testing.assert_frame_equal(untimed(tmp_path), untimed(alone))
    board, outcomes = "leaderboard.csv", "outcomes.parquet"
    pd.testing.assert_frame_equal(untimed(tmp_path, board), untimed(alone, board))
    tables = [pyarrow.parquet.read_table(folder / "out" / outcomes) for folder in (tmp_path, alone)]
    assert tables[0].equals(tables[1])


def test_a_task_that_kills_its_worker_fails_alone(tmp_path: Path) -> None:
    lines, few = Lines(), {"datasets": [{"name": "digits", "n": 20}], "attacks": GRID["attacks"][:1]}
    completed = run(
        tmp_path, lines, **few, defenses=["deadly", "parent", "shift", "talkative"], threats=["black-box"]
    )
    records = untimed(tmp_path)
    deadly = records[records["defense"] == "deadly"]
    assert set(deadly["status"]) == {"failed"}
    assert deadly["reason"].str.contains("its worker process ended twice.*SIGKILL").all()
    parent = records[records["defense"] == "parent"]
    assert parent["reason"].str.contains("exit status 3: before the end").all()
    assert set(records[records["defense"].isin(["shift", "talkative"])]["status"]) == {"ok"}
    assert len(completed.failed) == len(deadly) + len(parent)
    assert "a line from the plugin" in lines.notes


def test_a_killed_worker_costs_no_result(alone: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    class Killer(Lines):
        def started(self, task: Task) -> None:
            if task.kind == "craft" and not killed:
                killed.extend(children())
                for process in killed:
                    os.kill(process, signal.SIGKILL)

    lines = Killer()
    run(tmp_path, lines)
    assert killed
    assert [line for line in lines.warnings if "runs once more" in line]
    pd.testing.assert_frame_equal(untimed(tmp_path), untimed(alone))


def test_a_task_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    grid = {"defenses": ["stalled", "shift"], "attacks": GRID["attacks"][:1], "threats": ["black-box"]}
    few = [{"name": "digits", "n": 20}]
    run(tmp_path, **grid, datasets=few, limits=Limits(task_seconds=15))
    records = untimed(tmp_path)
    assert set(records["status"][records["defense"] == "shift"]) == {"ok"}
    stalled = records[records["defense"] == "stalled"]
    assert stalled["reason"].str.contains("longer than 15 s").all()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_stops_when_its_time_is_over_and_continues(workers: int, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, workers=workers, limits=Limits(run_seconds=0.001))
    assert not (tmp_path / "out" / "records.csv").exists()
    run(tmp_path, workers=1)
    pd.testing.assert_frame_equal(untimed(tmp_path), untimed(alone))


def test_a_worker_that_plans_another_run_is_an_error(tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text(PLUGINS[0].read_text())
    planned = plan_run(GRID, Silent(), store=str(tmp_path / "store"), plugins=[plugin], device="cpu")
    plugin.write_text(PLUGINS[0].read_text().replace("1e4", "1e5"))
    with pytest.raises(UserError, match="plans another run"):
        execute_run(planned, Silent(), tmp_path / "out", workers=2)


@pytest.mark.parametrize("workers", [0, -1, "2"])
def test_a_wrong_number_of_workers_is_refused(workers: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="number from 1"):
        run(tmp_path, workers=workers)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`bench run` with two workers, in the middle of the work."""
    grid = GRID | {"defenses": ["slow"], "attacks": [{"name": "pgd", "eps": 0.1, "steps": 200}]}
    path = tmp_path / "grid.json"  # JSON is YAML
    path.write_text(json.dumps(grid))
    command = [sys.executable, "-m", "benchmark", "run", "--grid", str(path), "--workers", "2"]
    command += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    command += [text for plugin in PLUGINS for text in ("--plugin", str(plugin))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    store = tmp_path / "store"

    def works() -> bool:
        return len(workers_of(process)) == 2 and any(store.glob("*/slow/*.json"))

    wait_for(lambda: process.poll() is not None or works())
    yield process
    process.kill()
    process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> float:
    """Seconds until a condition holds."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.02)
    return time.monotonic() - begin


def workers_of(process: subprocess.Popen[str]) -> Mapping[int, list[int]]:
    """The processes of each worker of a driver, by the session of the worker."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    text = path.read_text() if path.exists() else ""
    return {int(pid): processes_of(int(pid)) for pid in text.split()}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to list processes")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_an_interrupted_or_killed_run(
    sent: signal.Signals, driver: subprocess.Popen[str]
) -> None:
    sessions = workers_of(driver)
    assert len(sessions) == 2
    driver.send_signal(sent)
    _, errors = driver.communicate(timeout=30)
    assert driver.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    assert ("repeat the command to continue" in errors) == (sent == signal.SIGINT)
    wait_for(lambda: not any(processes_of(session) for session in sessions), 30)
