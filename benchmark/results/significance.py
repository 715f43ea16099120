"""Which defense has a significantly lower error than all others of its row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from benchmark.files.tables import Row
from benchmark.metrics.statistics import holm, mcnemar_less
from benchmark.results.cell_outcomes import BoolArray, group_by
from benchmark.results.flags import any_doubt


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """The images that the pipeline of one cell misclassified, and the bare target under the same attack."""

    misclassified: BoolArray
    baseline: BoolArray


def significantly_best(records: Iterable[Row], image_errors: Mapping[str, ImageErrors]) -> str | None:
    """Find the defense whose error is significantly lower than that of every other one and of no defense.

    One-sided exact McNemar tests on the same images, at 5 % with Holm's correction over the others. With
    several seeds the least favourable pair counts. An error in doubt is never the best, but has to be beaten.

    The records are of one attack by one attacker; `column` names the defense. None if no difference is
    significant or the images of a cell are not known.
    """
    by_defense = group_by((record for record in records if record["status"] == "ok"), itemgetter("column"))
    if any(record["key"] not in image_errors for members in by_defense.values() for record in members):
        return None
    claims = {
        name: _error(members)
        for name, members in by_defense.items()
        if not any(any_doubt(record["flags"]) for record in members)
    }
    if not claims:
        return None
    best = min(claims, key=lambda name: claims[name])
    if claims[best] > min(_error(members) for members in by_defense.values()):
        return None
    ours = by_defense.pop(best)
    errors = [image_errors[record["key"]] for record in ours]
    baseline = max(mcnemar_less(error.misclassified, error.baseline) for error in errors)
    others = [_least_favourable(ours, members, image_errors) for members in by_defense.values()]
    p_values = [p for p in others if p is not None]
    return best if len(p_values) == len(others) and all(holm([baseline, *p_values])) else None


def _error(records: Iterable[Row]) -> float:
    return float(np.mean([record["error"] for record in records]))


def _least_favourable(
    ours: Iterable[Row], theirs: Iterable[Row], image_errors: Mapping[str, ImageErrors]
) -> float | None:
    """The largest p-value over pairs that share target and attack seeds; None if there is no such pair."""
    return max(
        (
            mcnemar_less(image_errors[one["key"]].misclassified, image_errors[other["key"]].misclassified)
            for one in ours
            for other in theirs
            if all(_same(one[seed], other[seed]) for seed in ("target_seed", "attack_seed"))
        ),
        default=None,
    )


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (pd.isna(one) and pd.isna(other)))
