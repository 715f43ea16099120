"""Measures whether a purifier in front of an image classifier protects it from adversarial attacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.version import __version__

if TYPE_CHECKING:
    import pandas

__all__ = ["__version__", "run"]


def run(
    grid: str | Path | Mapping[str, Any], *, out: str | Path | None = None, **options: Any
) -> pandas.DataFrame:
    """Run a grid and return its records, one row per cell (columns as in `records.csv`).

    Args:
        grid: A file, the name of a built-in grid, or a mapping with the same keys.
        out: The folder for the files of the run; by default `results/runs/<grid name>`.
        **options: `data`, `store`, `device`, `plugins`, `only` as in `bench run`.

    Raises:
        benchmark.errors.UserError: Anything in the grid or the options is wrong.
    """
    from benchmark.display import Silent
    from benchmark.runs import prepare, read_records, run_prepared

    observer = Silent()
    prepared = prepare(grid, observer, **options)
    finished = run_prepared(prepared, observer, Path(out or f"results/runs/{prepared.grid.name}"))
    return read_records(finished.out)
