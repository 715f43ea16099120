"""`make strength`: every attack and library against undefended classifiers, into `results/strength.csv`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pandas as pd

import benchmark
from tests.conftest import REPOSITORY, data_root

_WEAKER = 0.02
_FARTHER = 1.05

_GROUP = ["dataset", "target", "attack", "norm", "eps"]
_LIBRARIES = ("torch", "adversarial-robustness-toolbox", "foolbox", "scipy")


def main() -> None:
    """Run the grid `strength` and publish what it says of the attacks."""
    root = data_root()
    if root is None:
        raise SystemExit("make strength needs the MNIST files: name their folder with BENCH_DATA")
    records = benchmark.run("strength", data=root, out=REPOSITORY / "results" / "runs" / "strength")
    broken = records[records["status"] != "ok"]
    if len(broken):
        raise SystemExit(
            f"not written, for cells without figures:\n{broken[['attack', 'backend', 'reason']]}"
        )
    table = judged(records)
    versions = " ".join(f"{name}={importlib.metadata.version(name)}" for name in _LIBRARIES)
    path = REPOSITORY / "results" / "strength.csv"
    table.assign(versions=versions).to_csv(path, index=False, float_format="%.4g")
    print(table.to_string())
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def judged(records: pd.DataFrame) -> pd.DataFrame:
    """What each attack reached, with `weak` where a library runs it weaker than another one does.

    Compared are the default settings, which are the first of an attack and library in one group of same
    data, classifier, norm and radius: weak is more than 2 points less success than the best, or at equal
    success a median norm above 1.05 times the least.
    """
    table = records[[*_GROUP, "backend", "attack_config", "n"]].copy()
    table["success"] = records["attack_success"].astype(float)
    norm = records["norm"].fillna("l2")
    table["median_norm"] = [records.at[row, norm[row]] for row in records.index]
    table["median_norm"] = table["median_norm"].astype(float)
    for name in ("forwards", "backwards"):
        table[name] = records[name].astype(float)
    table["seconds"] = records["craft_ms"].astype(float) * records["n"] / 1000
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
    main()
