"""Measures whether a purifier in front of an image classifier protects it from adversarial attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.version import __version__

if TYPE_CHECKING:
    import pandas

    from benchmark.outside import Export

__all__ = ["__version__", "export", "load", "run"]


def run(
    grid: str | Path | Mapping[str, Any], *, out: str | Path | None = None, **options: Any
) -> pandas.DataFrame:
    """Run a grid and return its records, one row per cell (columns as in `records.csv`).

    Args:
        grid: A file, the name of a built-in grid, or a mapping with the same keys.
        out: The folder for the files of the run; by default `results/runs/<grid name>`.
        **options: `data`, `store`, `device`, `plugins`, `only`, `sanity`, `trust`, `reuse`, `threads` as in
            `bench run`. Of what the grid names only the code in `plugins` and `trust` runs.

    Raises:
        benchmark.errors.UserError: Anything in the grid or the options is wrong.
    """
    from benchmark.display import Silent
    from benchmark.runs import prepare, read_records, run_prepared

    observer = Silent()
    prepared = prepare(grid, observer, **options)
    finished = run_prepared(prepared, observer, Path(out or f"results/runs/{prepared.grid.name}"))
    return read_records(finished.out)


def export(
    run: str | Path,
    cell: str,
    *,
    data: str | Path | None = None,
    store: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    trust: Sequence[str | Path] = (),
) -> Export:
    """The pipeline of a cell as a module, with its clean images and labels, for attacks from outside.

    Args:
        run: The folder of a run.
        cell: The key of the cell, or how it begins.
        data: As in `bench run`.
        store: As in `bench run`.
        plugins: As in `bench run`.
        trust: As in `bench run`.

    Raises:
        benchmark.errors.UserError: There is no such run or cell.
    """
    from benchmark.display import Silent
    from benchmark.outside import export as export_from
    from benchmark.outside import find_cell
    from benchmark.runs import run_again

    files = [Path(plugin) for plugin in plugins]
    prepared = run_again(Path(run), Silent(), data=data, store=store, plugins=files, trust=trust)
    return export_from(prepared.workshop, find_cell(prepared.plan, cell))


def load(run: str | Path) -> pandas.DataFrame:
    """The records of a run that was made before, as `run` returned them.

    Args:
        run: The folder of the run.

    Raises:
        benchmark.errors.UserError: The folder holds no run.
    """
    from benchmark.runs import read_records

    return read_records(Path(run))
