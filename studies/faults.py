"""`make faults`: kills workers and drivers at random moments of runs, and looks for lost or changed results.

A run with two workers is started again and again on one store. At random moments one of its workers, or the
driver, is killed. When a run comes to its end, a part of its results is removed, so that there is work again.
At the end the files are compared with those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet

from benchmark.results.records import TIMINGS

_GRID: dict[str, Any] = {
    "name": "faults",
    "datasets": [{"name": "digits", "n": 200}],
    "targets": [{"name": "mnist-c", "min_steps": 200, "batch_size": 32, "lr": 0.002}],
    "source": "target",
    "defenses": ["median", "gaussian-noise", {"name": "ape-gan", "min_steps": 200, "batch_size": 16}],
    "attacks": [{"name": "fgsm", "eps": [0.1, 0.2]}, {"name": "pgd", "eps": 0.2, "steps": 5}],
    "threats": ["black-box", {"name": "white-box", "eot": 2}],
}
_DRIVER_SHARE = 0.3
_REMOVED_SHARE = 0.5


def main() -> None:
    """Kill as often as the command line says, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "grid.json").write_text(json.dumps(_GRID))  # JSON is YAML
        begin = time.monotonic()
        _finish(_start(folder, "alone"))
        whole = time.monotonic() - begin
        print(f"undisturbed: {whole:.0f} s, {len(_results(folder / 'alone'))} results", flush=True)
        counts = _disturb(folder, kills, whole / 4, chance)
        log = _finish(_start(folder, "disturbed"))
        assert "failed" not in log, log
        _print(counts, folder)


def _start(folder: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmark", "run", "--grid", str(folder / "grid.json"), "--no-zoo"]
    command += ["--workers", "2", "--device", "cpu"]
    command += ["--store", str(folder / name / "store"), "--out", str(folder / name / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.PIPE
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment)


def _finish(process: subprocess.Popen[str]) -> str:
    log, _ = process.communicate()
    assert process.returncode == 0, log
    return log


def _disturb(folder: Path, kills: int, longest: float, chance: random.Random) -> Counter[str]:
    """Kill processes of runs at random moments."""
    counts: Counter[str] = Counter()
    process, known = _start(folder, "disturbed"), dict[str, str]()
    while counts["workers killed"] + counts["drivers killed"] < kills:
        time.sleep(chance.uniform(0.1, longest))
        if process.poll() is not None:
            counts["retried"] += _finish(process).count("it runs once more")
            _remove_some(folder / "disturbed", chance)
            process, known = _start(folder, "disturbed"), {}
            continue
        workers = _workers(process)
        if chance.random() < _DRIVER_SHARE:
            process.kill()
            counts["retried"] += process.communicate()[0].count("it runs once more")
            counts["drivers killed"] += 1
        elif workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            counts["workers killed"] += 1
        now = _results(folder / "disturbed")
        counts["results lost"] += len(known.keys() - now.keys())
        counts["results replaced"] += sum(now[key] != known[key] for key in known.keys() & now.keys())
        known = now
        if process.poll() is not None:
            process = _start(folder, "disturbed")
    counts["retried"] += process.communicate()[0].count("it runs once more")
    return counts


def _workers(driver: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def _results(run: Path) -> dict[str, str]:
    """The content of the JSON file of each stored result, without unfinished trainings."""
    files = (run / "store").glob("*/*/*.json")
    return {str(file): file.read_text() for file in files if file.parts[-3] != "checkpoint"}


def _remove_some(run: Path, chance: random.Random) -> None:
    """Remove a part of the results, so that there is work again."""
    for file in sorted(_results(run)):
        if chance.random() < _REMOVED_SHARE:
            Path(file).unlink()


def _print(counts: Counter[str], folder: Path) -> None:
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    for name in ("records.csv", "leaderboard.csv"):
        alone, disturbed = (
            pd.read_csv(folder / run / "out" / name, dtype=str).drop(columns=list(TIMINGS), errors="ignore")
            for run in ("alone", "disturbed")
        )
        print(f"{name}: {'equal' if alone.equals(disturbed) else 'DIFFERENT'}")
    tables = [
        pyarrow.parquet.read_table(folder / run / "out" / "outcomes.parquet")
        for run in ("alone", "disturbed")
    ]
    print(f"outcomes.parquet: {'equal' if tables[0].equals(tables[1]) else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
