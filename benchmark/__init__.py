"""Measures whether a purifier in front of an image classifier protects it from adversarial attacks."""

from __future__ import annotations

from benchmark.checkout import checkout
from benchmark.version import __version__

TYPE_CHECKING = False
"""As in `typing`. `python -m benchmark` imports this module while the current folder is still on the path: a
file such as `typing.py` in it must not run."""

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import pandas

    from benchmark.results.external_images import Export
    from benchmark.zoo.models import load_defense, load_pipeline, load_target

# In a checkout the plugin folders are beside this package. They must come from the same checkout as the
# package, even if another checkout is installed.
if (_root := checkout()) is not None:
    __path__.append(_root)

__all__ = ["__version__", "export", "load", "load_defense", "load_pipeline", "load_target", "run"]


def run(
    grid: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    workers: int = 1,
    **options: Any,
) -> pandas.DataFrame:
    """Run a grid and return its records, one row per cell (columns as in `records.csv`).

    Args:
        grid: A file, the name of a built-in grid, or a mapping with the same keys.
        out: The folder for the files of the run; by default `results/runs/<grid name>`.
        workers: Number of worker processes; with 1, this process does everything.
        **options: `data`, `store`, `device`, `plugins`, `only`, `sanity`, `trust`, `reuse`, `threads`, `zoo`
            as in `bench run`. No code that the grid names runs unless `plugins` or `trust` names it too.

    Raises:
        benchmark.errors.UserError: Something in the grid or the options is wrong.
    """
    from pathlib import Path

    from benchmark.execution.observer import Silent
    from benchmark.results.reading import read_records
    from benchmark.runs import execute_run, plan_run

    observer = Silent()
    planned = plan_run(grid, observer, **options)
    folder = Path(out or f"results/runs/{planned.grid.name}")
    completed = execute_run(planned, observer, folder, workers=workers)
    return read_records(completed.out)


def export(
    run: str | Path,
    cell: str,
    *,
    data: str | Path | None = None,
    store: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    trust: Sequence[str | Path] = (),
) -> Export:
    """Export a cell to attack it with other tools: its pipeline as a module, clean images and labels.

    Args:
        run: The folder of a run.
        cell: The key of the cell, or its beginning.
        data, store, plugins, trust: As in `bench run`.

    Raises:
        benchmark.errors.UserError: There is no such run or cell.
    """
    from pathlib import Path

    from benchmark.execution.observer import Silent
    from benchmark.finished_runs import reload_run
    from benchmark.results.external_images import export as export_cell
    from benchmark.results.external_images import find_cell

    files = [Path(plugin) for plugin in plugins]
    planned = reload_run(Path(run), Silent(), data=data, store=store, plugins=files, trust=trust)
    return export_cell(planned.context, find_cell(planned.plan, cell))


def load(run: str | Path) -> pandas.DataFrame:
    """Load the records of the finished run in a folder, as `run` returns them.

    Raises:
        benchmark.errors.UserError: The folder holds no run.
    """
    from pathlib import Path

    from benchmark.results.reading import read_records

    return read_records(Path(run))


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import the `load_…` functions on first use, so that `import benchmark` does not import torch."""
        if name in ("load_defense", "load_pipeline", "load_target"):
            from benchmark.zoo import models

            return getattr(models, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
