"""The published values and the grids of the papers: known names, settings as published."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from benchmark.plan.cells import Cell
from benchmark.plan.grid import builtin_grids
from benchmark.plan.plan import Plan
from benchmark.plan.threats import THREATS
from benchmark.plugins.registry import Registry, default_registry
from benchmark.report.paper_comparison import PAPERS, papers
from tests.plan.planned import plan_without_files

GRIDS = [name for name in builtin_grids() if "-table" in name or name == "full"]


def published_values(paper: str) -> pd.DataFrame:
    return pd.read_csv(PAPERS / f"{paper}.csv", dtype={"table": str})


@pytest.fixture(scope="module")
def registry() -> Registry:
    return default_registry()


@pytest.fixture
def planned(registry: Registry) -> Callable[[str], Plan]:
    """Plans a grid as if every data set had 10,000 test images and all weights were present."""
    return partial(plan_without_files, registry=registry)


@pytest.mark.parametrize("paper", papers())
def test_published_values_name_known_plugins_and_threats(paper: str) -> None:
    rows = published_values(paper)
    registry = default_registry()
    for kind in ("dataset", "target", "defense", "attack"):
        assert set(rows[kind].dropna()) <= set(registry.names(kind))
    assert set(rows["threat"].dropna()) <= set(THREATS)
    assert (rows["paper"] == paper).all()
    assert rows["source"].notna().all()
    for column in ("target_config", "defense_config", "attack_config"):
        assert all(isinstance(json.loads(text), dict) for text in rows[column].dropna())


@pytest.mark.parametrize("paper", papers())
def test_the_error_agrees_with_the_printed_value(paper: str) -> None:
    rows = published_values(paper)
    error = rows["metric"].isin(["error", "error_top5"])
    accuracy = rows["metric"] == "accuracy"
    assert rows.loc[error, "error"].tolist() == pytest.approx((rows.loc[error, "value"] / 100).tolist())
    assert rows.loc[accuracy, "error"].tolist() == pytest.approx(
        (1 - rows.loc[accuracy, "value"] / 100).tolist(), abs=1e-6
    )
    assert rows.loc[~error & ~accuracy, "error"].isna().all()


@pytest.mark.parametrize("paper", papers())
def test_no_value_is_listed_twice(paper: str) -> None:
    rows = published_values(paper)
    same = rows.duplicated([c for c in rows.columns if c not in ("unit", "value", "error", "source")])
    assert not same[rows["metric"] != "accuracy_gain"].any()


def test_repeated_values_agree_except_for_the_known_misprint() -> None:
    rows = published_values("ape-gan")
    rows = rows[rows["metric"] == "error"].fillna("")
    same = ["dataset", "target", "target_config", "defense", "attack", "attack_config", "eps", "threat"]
    values = rows.groupby(same)["value"].agg(set)
    contradictory = values[values.map(len) > 1]
    assert contradictory.tolist() == [{19.9, 19.0}]
    assert contradictory.index[0][:5] == ("cifar10", "resnet18", "", "ape-gan", "l-bfgs")


@pytest.mark.parametrize("name", GRIDS)
def test_every_cell_of_a_grid_is_possible_and_unique(planned, name: str) -> None:
    plan = planned(name)
    possible = [cell for cell in plan.cells if not cell.skipped]
    assert len(possible) == len(plan.cells)
    assert len({json.dumps(cell.identity) for cell in plan.cells}) == len(plan.cells)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_says_what_it_costs(name: str) -> None:
    text = (Path(GRIDS_FOLDER) / f"{name}.yaml").read_text(encoding="utf-8")
    comment = text.partition("\nname:")[0]
    assert any(word in comment for word in ("CPU", "GPU"))
    assert all(len(line) <= 125 for line in text.splitlines())


GRIDS_FOLDER = PAPERS.parent / "grids"


@pytest.mark.parametrize(
    ("name", "tables"),
    [("ape-gan-table1", {"1"}), ("ape-gan-table4", {"4"}), ("ape-gan-tables789", {"7", "8", "9"})],
)
def test_a_grid_has_a_cell_for_every_published_value_of_its_tables(
    planned, name: str, tables: set[str]
) -> None:
    cells = planned(name).cells
    rows = published_values("ape-gan")
    for row in rows[rows["table"].isin(tables)].to_dict("records"):
        assert any(_is_of(cell, row) for cell in cells), row


def _is_of(cell: Cell, row: dict) -> bool:
    """Whether the published row and the cell are the same experiment at the same settings."""

    def covered(column: str, config: dict) -> bool:
        published = {} if pd.isna(row[column]) else json.loads(row[column])
        base = {"craft_on", "adversarial"}
        return all(_covers(published[key], config.get(key)) for key in published) and all(
            not config.get(key) for key in base - set(published)
        )

    if (row["dataset"], row["target"], row["defense"]) != (
        cell.dataset.name,
        cell.target.label,
        cell.purifier.name,
    ):
        return False
    if not covered("target_config", dict(cell.target.target.config)):
        return False
    if not covered("defense_config", cell.purifier.config):
        return False
    if pd.isna(row["attack"]):
        return True
    eps = None if pd.isna(row["eps"]) else pytest.approx(row["eps"], abs=1e-6)
    return (row["attack"], row["threat"]) == (cell.attack.name, cell.threat.name) and (
        cell.attack.eps == eps and covered("attack_config", json.loads(cell.attack_config))
    )


def _covers(published, ours) -> bool:
    if isinstance(published, dict) and isinstance(ours, dict):
        return all(_covers(value, ours.get(key)) for key, value in published.items())
    return published == ours


def test_the_largest_grid_has_all_defenses(planned, registry: Registry) -> None:
    cells = planned("full").cells
    assert len(cells) > 5000
    assert {cell.threat.name for cell in cells} >= {"black-box", "white-box"}
    assert {part.defense.name for cell in cells for part in cell.purifier.parts} == {
        *registry.names("defense")
    }
