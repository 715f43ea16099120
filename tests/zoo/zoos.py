"""Small finished runs, and their trainings exported into zoos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from typer.testing import CliRunner, Result

from benchmark.cli.main import app
from benchmark.execution.executor import split_by_store
from benchmark.execution.observer import Silent
from benchmark.results.records import TIMINGS
from benchmark.runs import execute_run, plan_run

GRID: dict[str, Any] = {
    "name": "zoo",
    "datasets": [{"name": "digits", "n": 20}],
    "targets": ["nearest-mean"],
    "source": "target",
    "defenses": ["identity", {"name": "shift", "strength": 0.01}],
    "attacks": [{"name": "fgsm", "eps": 0.1}],
    "threats": ["black-box"],
}


class Log(Silent):
    """Records the warnings of a run."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def run(grid: dict[str, Any], folder: Path, plugins: list[Path]) -> Log:
    """Run a grid on the CPU, with `store` and `out` in the folder."""
    log = Log()
    planned = plan_run(grid, log, store=str(folder / "store"), plugins=plugins, device="cpu")
    execute_run(planned, log, folder / "out")
    return log


def missing_trainings(
    grid: dict[str, Any], store: Path, plugins: list[Path], **options: Any
) -> tuple[int, Log]:
    """The number of trainings that a grid lacks, and the warnings of planning it."""
    log = Log()
    planned = plan_run(grid, log, store=str(store), plugins=plugins, device="cpu", **options)
    missing, _ = split_by_store(planned.plan, planned.context)
    return sum(task.kind.startswith("train") for task in missing), log


def bench(*arguments: object) -> Result:
    """Run `bench zoo` with these arguments."""
    return CliRunner().invoke(app, ["zoo", *map(str, arguments)])


def export(folder: Path, plugin: Path | None, to: Path, *options: object) -> str:
    """Export the run in a folder, as `run` left it; returns the output."""
    plugins = [] if plugin is None else ["--plugin", plugin]
    done = bench("export", folder / "out", "--store", folder / "store", *plugins, "--to", to, *options)
    assert done.exit_code == 0, done.output
    return done.output


def metrics(out: Path) -> pd.DataFrame:
    """The records of a run without the columns with durations."""
    return pd.read_csv(out / "records.csv").drop(columns=list(TIMINGS))


def swap_weights(records: list[dict[str, Any]]) -> None:
    """Exchange the files of the two records of a zoo."""
    first, second = records
    for name in ("files", "bytes", "sha256"):
        first[name], second[name] = second[name], first[name]
