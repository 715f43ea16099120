"""Small finished runs whose trainings go into zoos, for the tests of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from typer.testing import CliRunner, Result

from benchmark.cli import app
from benchmark.display import Silent
from benchmark.executor import split_by_store
from benchmark.records import TIMINGS
from benchmark.runs import prepare, run_prepared

GRID: dict[str, Any] = {
    "name": "zoo",
    "datasets": [{"name": "digits", "n": 20}],
    "targets": ["nearest-mean"],
    "source": "target",
    "defenses": ["identity", {"name": "shift", "strength": 0.01}],
    "attacks": [{"name": "fgsm", "eps": 0.1}],
    "threats": ["black-box"],
}


class Notes(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def run(grid: dict[str, Any], store: Path, out: Path, plugins: list[Path]) -> Notes:
    """Run a grid on the CPU."""
    notes = Notes()
    prepared = prepare(grid, notes, store=str(store), plugins=plugins, device="cpu")
    run_prepared(prepared, notes, out)
    return notes


def to_train(grid: dict[str, Any], store: Path, plugins: list[Path], **options: Any) -> tuple[int, Notes]:
    """How many trainings of a grid are missing, and what was said while that was found out."""
    notes = Notes()
    prepared = prepare(grid, notes, store=str(store), plugins=plugins, device="cpu", **options)
    missing, _ = split_by_store(prepared.plan, prepared.workshop)
    return sum(task.kind.startswith("train") for task in missing), notes


def bench(*arguments: object) -> Result:
    """Run `bench zoo` with these arguments."""
    return CliRunner().invoke(app, ["zoo", *map(str, arguments)])


def figures(out: Path) -> pd.DataFrame:
    """The records of a run less those that say how long it took."""
    return pd.read_csv(out / "records.csv").drop(columns=list(TIMINGS))
