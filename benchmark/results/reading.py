"""Reading the files of a finished run: records, leaderboard, outcomes and metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UserError
from benchmark.files.tables import unescape_formula
from benchmark.results.columns import LEADERBOARD_COLUMNS, RECORD_COLUMNS, TEXT_COLUMNS
from benchmark.results.significance import ImageErrors


def read_records(out: Path) -> pd.DataFrame:
    """The records of a run; `UserError` without a records.csv, or if its columns are different."""
    path = out / "records.csv"
    if not path.is_file():
        raise UserError(
            f"no run in {out}: there is no records.csv",
            hint="name a folder that `bench run` wrote, e.g. results/runs/quick",
        )
    if path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] != ",".join(RECORD_COLUMNS):
        raise UserError(f"{path} is not the records.csv of a run: its columns are different")
    return _read_csv(path)


def read_board(out: Path) -> pd.DataFrame:
    """The leaderboard of a run; without rows if there is no leaderboard.csv."""
    path = out / "leaderboard.csv"
    if not path.is_file():
        empty: pd.DataFrame = pd.DataFrame(columns=list(LEADERBOARD_COLUMNS))
        return empty
    board = _read_csv(path)
    if missing := [name for name in LEADERBOARD_COLUMNS if name not in board]:
        raise UserError(f"{path} is not the leaderboard of a run: it has no column {missing[0]!r}")
    return board


def _read_csv(path: Path) -> pd.DataFrame:
    """A CSV file whose text columns are read as text, also if they look like numbers."""
    try:
        columns = pd.read_csv(path, nrows=0).columns
        frame = pd.read_csv(
            path,
            dtype=dict.fromkeys(TEXT_COLUMNS, str),
            keep_default_na=False,  # a defense may be named "null"
            na_values={name: [""] if name in TEXT_COLUMNS else ["", "nan"] for name in columns},
            float_precision="round_trip",
        )
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    text = [name for name in frame if name in TEXT_COLUMNS]
    unescaped: pd.DataFrame = frame.assign(**{name: frame[name].map(unescape_formula) for name in text})
    return unescaped


def read_image_errors(out: Path) -> dict[str, ImageErrors] | None:
    """The misclassified images of each cell of a run, by the cell's key; None without outcomes.parquet."""
    path = out / "outcomes.parquet"
    if not path.is_file():
        return None
    outcomes = pd.read_parquet(path, columns=["key", "label", "adversarial", "baseline"])
    outcomes["misclassified"] = outcomes["adversarial"] != outcomes["label"]
    outcomes["baseline"] = outcomes["baseline"] != outcomes["label"]
    return {
        str(key): ImageErrors(rows["misclassified"].to_numpy(), rows["baseline"].to_numpy())
        for key, rows in outcomes.groupby("key", observed=True, sort=False)
    }


def read_run_metadata(out: Path) -> dict[str, Any]:
    """The run.json of a run; only its name if there is no run.json."""
    path = out / "run.json"
    if not path.is_file():
        return {"name": out.resolve().name}
    try:
        metadata = dict(json.loads(path.read_text(encoding="utf-8")))
        return metadata | {"name": str(metadata["name"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the run.json of a run: {error!r}") from error
