"""Which images each cell got wrong, and which defense that makes the best of its row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.flags import FLAGS, is_doubt
from benchmark.records import Row
from benchmark.stats import holm, mcnemar_less

_Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Judged:
    """Per image of one cell: whether the pipeline was wrong, and the bare target under the same attack."""

    wrong: _Mask
    baseline: _Mask


def read_judged(path: Path) -> dict[str, Judged]:
    """The cells of an `outcomes.parquet` by key."""
    columns = ["key", "label", "adversarial", "baseline"]
    outcomes = pd.read_parquet(path, columns=columns)
    outcomes["wrong"] = outcomes["adversarial"] != outcomes["label"]
    outcomes["bare"] = outcomes["baseline"] != outcomes["label"]
    return {
        str(key): Judged(rows["wrong"].to_numpy(), rows["bare"].to_numpy())
        for key, rows in outcomes.groupby("key", observed=True, sort=False)
    }


def clearly_best(rows: Iterable[Row], judged: Mapping[str, Judged]) -> str | None:
    """The defense that errs significantly less often than every other one and than no defense.

    Compared on the same images by one-sided exact McNemar tests, over seeds by the least favourable pair,
    at 5 % Holm-corrected over the others. A figure in doubt is never the best, but has to be beaten.

    Args:
        rows: Records of one attack by one attacker; `column` names the defense.
        judged: By key of a cell, which images were wrong.

    Returns:
        Its name, or None where no difference is significant or a cell's images are not known.
    """
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            parts.setdefault(row["column"], []).append(row)
    if any(row["key"] not in judged for part in parts.values() for row in part):
        return None
    claims = {column: _error(part) for column, part in parts.items() if not _doubted(part)}
    if not claims:
        return None
    best = min(claims, key=lambda column: claims[column])
    if claims[best] > min(_error(part) for part in parts.values()):
        return None
    ours = parts.pop(best)
    bare = max(mcnemar_less(judged[row["key"]].wrong, judged[row["key"]].baseline) for row in ours)
    others = [_least_favourable(ours, part, judged) for part in parts.values()]
    known = [p for p in others if p is not None]
    return best if len(known) == len(others) and all(holm([bare, *known])) else None


def _error(rows: Iterable[Row]) -> float:
    return float(np.mean([row["error"] for row in rows]))


def _doubted(rows: Iterable[Row]) -> bool:
    flags = {flag for row in rows for flag in row["flags"].split()}
    return any(flag in FLAGS and is_doubt(flag) for flag in flags)


def _least_favourable(
    ours: Iterable[Row], theirs: Iterable[Row], judged: Mapping[str, Judged]
) -> float | None:
    """The largest p-value over pairs that share target and attack seeds; None where no pair does."""
    return max(
        (
            mcnemar_less(judged[mine["key"]].wrong, judged[other["key"]].wrong)
            for mine in ours
            for other in theirs
            if all(_same(mine[seed], other[seed]) for seed in ("target_seed", "attack_seed"))
        ),
        default=None,
    )


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (pd.isna(one) and pd.isna(other)))
