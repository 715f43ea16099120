"""The images of a finished run, for its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.errors import PluginError, UserError
from benchmark.finished_runs import reload_run
from benchmark.report.images import Images, ImagesUnavailable, StoredImages
from benchmark.results.reading import read_run_metadata


def images_of(run: Path, **options: Any) -> Images:
    """Find the images of a finished run by planning its grid again; the options are those of `reload_run`.

    Only code that `plugins` and `trust` name runs, and nothing is downloaded. If the grid needs more code,
    the report has no images, and the reason says which option to add.
    """
    from benchmark.execution.observer import Silent

    if read_run_metadata(run).get("grid") is None:
        return ImagesUnavailable("No images: there is no run.json with the grid.")
    try:
        planned = reload_run(run, Silent(), device="cpu", plan_only=True, **options)
    except (UserError, PluginError) as error:
        return ImagesUnavailable(f"No images: the grid of the run cannot be planned here ({error}).")
    if planned.missing_datasets:
        names = ", ".join(planned.missing_datasets)
        return ImagesUnavailable(f"No images: the data sets {names} were not found; see --data.")
    return StoredImages(planned.context, planned.plan.cells)
