"""`make strength`: every attack and library against undefended classifiers, into `results/strength.csv`."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import benchmark
from benchmark.cli import column_values
from tests.conftest import REPOSITORY, data_root

_WEAKER = 0.02
_FARTHER = 1.05

_GROUP = ["dataset", "target", "attack", "norm", "eps"]
TABLE = REPOSITORY / "results" / "strength.csv"

_LIBRARIES = ("torch", "adversarial-robustness-toolbox", "foolbox", "scipy")


def main(only: list[str]) -> None:
    """Run the grid `strength`, or the part of it that `only` (COLUMN=VALUE …) names, and publish its rows.

    Rows of a part take the place of those of the same settings that are in the file.
    """
    root = data_root()
    if root is None:
        raise SystemExit("make strength needs the MNIST files: name their folder with BENCH_DATA")
    chosen = column_values(only)
    records = benchmark.run(
        "strength", data=root, out=REPOSITORY / "results" / "runs" / "strength", only=chosen
    )
    broken = records[records["status"] != "ok"]
    if len(broken):
        raise SystemExit(
            f"not written, for cells without figures:\n{broken[['attack', 'backend', 'reason']]}"
        )
    versions = " ".join(f"{name}={importlib.metadata.version(name)}" for name in _LIBRARIES)
    table = measured(records).assign(versions=versions)
    if chosen:
        table = renewed(pd.read_csv(TABLE), table)
    table = judged(table)
    table.to_csv(TABLE, index=False, float_format="%.4g")
    print(table.to_string())
    print(f"written: {TABLE.relative_to(Path.cwd()) if TABLE.is_relative_to(Path.cwd()) else TABLE}")


def measured(records: pd.DataFrame) -> pd.DataFrame:
    """What each attack reached: success, median norm, passes and seconds."""
    table = records[[*_GROUP, "backend", "attack_config", "n"]].copy()
    table["success"] = records["attack_success"].astype(float)
    norm = records["norm"].fillna("l2")
    table["median_norm"] = [records.at[row, norm[row]] for row in records.index]
    table["median_norm"] = table["median_norm"].astype(float)
    for name in ("forwards", "backwards"):
        table[name] = records[name].astype(float)
    table["seconds"] = records["craft_ms"].astype(float) * records["n"] / 1000
    return table


def renewed(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The table with those rows in the places of the same settings.

    Raises:
        SystemExit: There is no such place: the whole grid has to be run.
    """
    same = [*_GROUP, "backend", "attack_config"]
    places = {tuple(row): index for index, row in table[same].fillna("").iterrows()}
    for _, row in rows.iterrows():
        place = places.get(tuple(row[same].fillna("")))
        if place is None:
            raise SystemExit(f"not written: {dict(row[same])} is not in {TABLE.name}; run the whole grid")
        table.loc[place, rows.columns] = row
    return table


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `weak` where a library runs an attack weaker than another one does.

    Compared are the first settings of an attack and library in one group of same data, classifier, norm and
    radius, which are the defaults unless these do a library injustice: weak is more than 2 points less
    success than the best, or at equal success a median norm above 1.05 times the least.
    """
    table = table.copy()
    table["tuned"] = table.duplicated([*_GROUP, "backend"])
    table["weak"] = False
    for _, group in table[~table["tuned"]].groupby(_GROUP, dropna=False):
        equal = group["success"] >= group["success"].max() - _WEAKER
        far = pd.Series(False, index=group.index)
        if np.isnan(group["eps"].astype(float)).all():
            far = group["median_norm"] > _FARTHER * group.loc[equal, "median_norm"].min()
        table.loc[group.index, "weak"] = ~equal | far
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
