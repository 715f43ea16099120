"""A published row is compared with the records of its run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmark.publishing.board_files import read_rows
from benchmark.publishing.published_run import Run
from benchmark.publishing.row_checks import record_problems
from benchmark.results.columns import LEADERBOARD_COLUMNS
from tests.conftest import Runner


@pytest.mark.parametrize(("error", "sound"), [(0.375, True), (0.37, False)])
def test_the_error_is_no_lower_than_the_mean_over_seeds_of_the_strongest_attack(
    small_run: Runner, tmp_path: Path, error: float, sound: bool
) -> None:
    """FGSM alone has 0.3 and 0.4 on the two trainings; the other attack ran on the second training only."""
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
    rows, _ = read_rows(run / "leaderboard.csv", LEADERBOARD_COLUMNS)
    row = next(row for row in rows if row["defense"] == cell["defense"])
    problems = list(record_problems(row | {"seeds": 2, "error": error, "clean_error": 0.0}, Run(run)))
    assert [problem for problem in problems if "an attack alone" in problem] == ([] if sound else problems)
    assert bool(problems) is not sound
