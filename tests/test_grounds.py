"""A published row against the records of the run that it rests on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmark.leaderboard import COLUMNS
from benchmark.publishing.boards import read_rows
from benchmark.publishing.rows import grounds_problems
from benchmark.publishing.run import Run
from tests.conftest import Runner


@pytest.mark.parametrize(("error", "sound"), [(0.375, True), (0.37, False)])
def test_an_attack_of_some_seeds_alone_is_weighed_by_them(
    small_run: Runner, tmp_path: Path, error: float, sound: bool
) -> None:
    """The second training fell to FGSM more often than the two together fell on the mean."""
    small_run(threats=["black-box"])
    run = tmp_path / "out"
    with (run / "records.csv").open(newline="", encoding="utf-8") as file:
        cell = next(csv.DictReader(file)) | {"clean_error": "0.0"}
    with (run / "records.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(cell), lineterminator="\n")
        writer.writeheader()
        writer.writerow(cell | {"defense_seed": "0", "error": "0.3"})
        writer.writerow(cell | {"defense_seed": "1", "error": "0.4"})
        writer.writerow(cell | {"defense_seed": "1", "error": "0.45", "attack": "another"})
    rows, _ = read_rows(run / "leaderboard.csv", COLUMNS)
    row = next(row for row in rows if row["defense"] == cell["defense"])
    found = list(grounds_problems(row | {"seeds": 2, "error": error, "clean_error": 0.0}, Run(run)))
    assert [problem for problem in found if "a cell of the run" in problem] == ([] if sound else found)
    assert bool(found) is not sound
