"""`make strength`: attacks and libraries on undefended classifiers, into `results/studies/strength.csv`."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import benchmark
from benchmark.cli.options import column_values
from studies import REPOSITORY, data_root

_WEAKER = 0.02
_FARTHER = 1.05

_GROUP = ["dataset", "target", "attack", "norm", "eps"]
TABLE = REPOSITORY / "results" / "studies" / "strength.csv"

_LIBRARIES = ("torch", "adversarial-robustness-toolbox", "foolbox", "scipy")


def main(only: list[str]) -> None:
    """Run the grid `strength`, or the part that `only` (COLUMN=VALUE …) names, and write its rows.

    Rows of a part replace the rows of the same settings in the file.
    """
    root = data_root()
    if root is None:
        raise SystemExit("make strength needs the MNIST files: name their folder with BENCH_DATA")
    columns = column_values(only)
    records = benchmark.run(
        "strength", data=root, out=REPOSITORY / "results" / "runs" / "strength", only=columns
    )
    unfinished = records[records["status"] != "ok"]
    if len(unfinished):
        raise SystemExit(
            f"not written: these cells have no error rate:\n{unfinished[['attack', 'backend', 'reason']]}"
        )
    versions = " ".join(f"{name}={importlib.metadata.version(name)}" for name in _LIBRARIES)
    table = measurements(records).assign(versions=versions)
    if columns:
        table = replace_rows(pd.read_csv(TABLE), table)
    table = mark_weak(table)
    table.to_csv(TABLE, index=False, float_format="%.4g")
    print(table.to_string())
    print(f"written: {TABLE.relative_to(Path.cwd()) if TABLE.is_relative_to(Path.cwd()) else TABLE}")


def measurements(records: pd.DataFrame) -> pd.DataFrame:
    """Success, median norm, passes and seconds of each attack."""
    table: pd.DataFrame = records[[*_GROUP, "backend", "attack_config", "n"]].copy()
    table["success"] = records["attack_success"].astype(float)
    norm = records["norm"].fillna("l2")
    sizes: list[Any] = [records.at[row, norm[row]] for row in records.index]
    table["median_norm"] = pd.Series(sizes, index=records.index, dtype=float)
    for name in ("forwards", "backwards"):
        table[name] = records[name].astype(float)
    table["seconds"] = records["craft_ms"].astype(float) * records["n"] / 1000
    return table


def replace_rows(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The table, in which these rows replace those of the same settings.

    Raises:
        SystemExit: The table has no row with these settings; the whole grid must be run.
    """
    same = [*_GROUP, "backend", "attack_config"]
    places = {tuple(row): index for index, row in table[same].fillna("").iterrows()}
    for _, row in rows.iterrows():
        place = places.get(tuple(row[same].fillna("")))
        if place is None:
            raise SystemExit(f"not written: {dict(row[same])} is not in {TABLE.name}; run the whole grid")
        table.loc[place, rows.columns] = row
    return table


def mark_weak(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the column `weak`: a library runs an attack weaker than another library does.

    In each group of equal data, classifier, norm and radius, the first settings of each attack and library
    are compared. These are the defaults, unless the defaults are unfair to a library. Weak means a success
    more than 2 points below the best or, at equal success, a median norm above 1.05 times the smallest.
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
