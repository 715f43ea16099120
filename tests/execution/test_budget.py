"""The budget: a cell whose attack uses more passes than the grid allows is neither failed nor robust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import Failure, most_severe
from benchmark.report.tables import read_tables
from tests.conftest import Runner

ATTACKS: list[dict[str, Any]] = [
    {"name": "fgsm", "eps": 0.2},
    {"name": "pgd", "eps": 0.2, "steps": 20},
]


def test_a_cell_beyond_the_budget_has_no_error_rate_even_if_its_result_is_stored(
    small_run: Runner, tmp_path: Path
) -> None:
    def run(**changes: Any) -> pd.DataFrame:
        records = small_run(store=str(tmp_path / "store"), attacks=ATTACKS, threats=["black-box"], **changes)
        return records.set_index("attack")

    first = run(budget=10)
    free = run()
    again = run(budget=10)
    assert dict(free["status"]) == {"fgsm": "ok", "pgd": "ok"}
    for records in (first, again):
        assert dict(records["status"]) == {"fgsm": "ok", "pgd": "budget"}
        assert records.loc["pgd", ["error", "attack_success", "l2"]].isna().all()
        assert "budget of 10" in records.loc["pgd", "reason"]
        assert records.loc["fgsm", "error"] == free.loc["fgsm", "error"]
    tables = read_tables(tmp_path / "out")
    assert "Cells that exceeded the budget" in tables
    board = (tmp_path / "out" / "leaderboard.csv").read_text()
    assert "incomplete" in board


def test_each_shard_has_the_budget(small_run: Runner, tmp_path: Path) -> None:
    """The mean number of passes over shards may be below the number that the hardest shard takes."""
    changes: dict[str, Any] = {"datasets": [{"name": "digits", "n": 200}], "attacks": ["dear-later"]}
    changes["threats"] = ["black-box"]
    stores = {"cached": str(tmp_path / "cached"), "fresh": str(tmp_path / "fresh")}
    free = small_run(store=stores["cached"], **changes)
    assert list(free["forwards"]) == [5]
    assert list(free["status"]) == ["ok"]
    for store in stores.values():
        assert list(small_run(store=store, **changes, budget=7)["status"]) == ["budget"]


def test_a_failure_takes_precedence_over_a_spent_budget() -> None:
    budget, fault = Failure("b", "budget"), Failure("f")
    assert most_severe([budget, fault]) is fault
    assert most_severe([None, budget]) is budget
    assert most_severe([None]) is None
