"""The columns of `records.csv`, `leaderboard.csv` and `substitutes.csv`, with the type of their values.

Enter a new column here, compute it in `records.py` or `leaderboard.py`, and describe it in `docs/columns.md`.
The columns that identify a cell are computed in `Cell.identity` (`benchmark/plan/cells.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a CSV file."""

    name: str
    dtype: type[str | int | float | bool]
    may_be_infinite: bool = False


def _columns(dtype: type[str | int | float | bool], *names: str) -> list[Column]:
    return [Column(name, dtype) for name in names]


_RECORDS = (
    *_columns(str, "dataset", "target", "target_config", "defense", "defense_config", "attack"),
    *_columns(str, "attack_config", "backend", "threat", "threat_config", "judge"),
    Column("targeted", bool),
    Column("norm", str),
    Column("eps", float),
    *_columns(int, "target_seed", "defense_seed", "attack_seed", "n"),
    Column("status", str),
    *_columns(float, "clean_error_target", "clean_error", "error_target", "error_baseline", "error"),
    *_columns(float, "error_low", "error_high", "gain", "attack_success", "recovered", "damaged"),
    *_columns(float, "error_8bit", "error_top5", "label_error", "psnr_adv", "psnr", "ssim_adv", "ssim"),
    *(Column(norm, float, may_be_infinite=True) for norm in ("l0", "l2", "linf")),
    *_columns(float, "craft_ms", "purify_ms", "forwards", "backwards", "purifies"),
    *_columns(str, "routes", "eligible", "flags", "reason", "key"),
)

_LEADERBOARD_ONLY = (
    *_columns(int, "rank", "seeds"),
    Column("control", bool),
    Column("gap", float),
    *_columns(str, "bound", "attacks"),
)

COLUMNS: Mapping[str, Column] = {column.name: column for column in (*_RECORDS, *_LEADERBOARD_ONLY)}
"""The columns of records and leaderboards by name."""

TEXT_COLUMNS = tuple(name for name, column in COLUMNS.items() if column.dtype is str)

RECORD_COLUMNS = tuple(column.name for column in _RECORDS)
"""The columns of `records.csv`, in order."""

# fmt: off
LEADERBOARD_COLUMNS = tuple(COLUMNS[name].name for name in (
    "dataset", "target", "target_config", "threat", "threat_config", "judge", "norm", "eps", "rank",
    "defense", "defense_config", "control", "n", "seeds", "clean_error", "error", "error_low",
    "error_high", "gap", "bound", "attacks", "flags", "psnr", "ssim", "purify_ms", "eligible",
))
"""The columns of `leaderboard.csv`, in order."""

SUBSTITUTE_COLUMNS = (
    "dataset", "target", "target_config", "defense", "defense_config", "attack", "attack_config", "eps",
    "threat", "route", "substitute", "queries", "validation_error", "own_error", "error",
)
"""The columns of `substitutes.csv`, in order."""
# fmt: on
