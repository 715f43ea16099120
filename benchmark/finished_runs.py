"""Finished runs: plan one again from its `run.json`, and add adversarial images from elsewhere to it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.execution.executor import execute
from benchmark.execution.observer import Observer
from benchmark.files.tables import Row
from benchmark.plan.cells import Sanity
from benchmark.plan.plan import Plan
from benchmark.plugins.trust import consent_hint
from benchmark.results.external_images import add_external_entry, external_cells, find_cell, store_external
from benchmark.results.reading import read_run_metadata
from benchmark.runs import PlannedRun, execute_run, plan_run


@dataclass(frozen=True)
class RunSettings:
    """The settings that a run was planned with, read from its `run.json`.

    Attributes:
        folder: The folder that relative paths in the grid are relative to, if the run has such paths.
        plugins: Names of the plugin files that the run used.
    """

    grid: Mapping[str, Any]
    only: Mapping[str, Collection[str]]
    sanity: Sanity
    folder: Path | None
    plugins: Collection[str]


def read_settings(run: Path) -> RunSettings:
    """Read the settings that a run was planned with.

    Raises:
        UserError: There is no run in the folder, or its `run.json` was not written by a run.
    """
    path = run / "run.json"
    if not path.is_file():
        raise UserError(
            f"no run in {run}: there is no run.json",
            hint="name a folder that `bench run` wrote, e.g. results/runs/quick",
        )
    metadata = read_run_metadata(run)

    def wrong(reason: str) -> UserError:
        return UserError(f"{path} is not the run.json of a run: {reason}")

    grid, only, sanity = metadata.get("grid"), metadata.get("only", {}), metadata.get("sanity", "fast")
    if not isinstance(grid, dict) or not isinstance(only, dict):  # a text would be the name of a file
        raise wrong("it names no grid")
    lists = all(isinstance(v, list) and all(isinstance(text, str) for text in v) for v in only.values())
    if sanity not in ("fast", "full") or not lists:
        raise wrong("its `only` or `sanity` is no setting")
    folder, plugins = metadata.get("grid_folder"), metadata.get("plugins")
    if folder is not None and not _is_path(folder):
        raise wrong(f"its `grid_folder`, {folder!r}, is no path")
    absolute = None if folder is None else (run / folder).resolve()
    return RunSettings(grid, only, sanity, absolute, tuple(plugins) if isinstance(plugins, dict) else ())


def _is_path(value: object) -> bool:
    """Whether a value from a JSON file is text that can be a path.

    JSON text may contain NUL and characters that UTF-8 cannot encode; a path may not.
    """
    return isinstance(value, str) and re.search(r"[\0\ud800-\udfff]", value) is None


def reload_run(
    run: Path | RunSettings, observer: Observer, *, plugins: Sequence[Path], **options: Any
) -> PlannedRun:
    """Plan the grid of a finished run again, in the same way.

    A `run.json` is no consent: the plugins and factories that it names run only if `plugins` and `trust`
    name them too.

    Args:
        run: The folder of the run, or settings that the caller read from it and may have changed.
        **options: `data`, `store`, `trust`, `device` and `plan_only`, as in `plan_run`.

    Raises:
        UserError: There is no run in the folder, its grid can no longer be planned, or it needs code that
            the arguments do not name. The message says which options to add.
    """
    settings = read_settings(run) if isinstance(run, Path) else run
    options |= {"only": settings.only, "sanity": settings.sanity}
    try:
        return plan_run(settings.grid, observer, plugins=plugins, folder=settings.folder, **options)
    except UserError as error:
        problems = list(error.problems)
        for name in settings.plugins:
            if name not in {path.name for path in plugins}:
                message = f"the run was made with the plugin file {name!r}, which was not named"
                problems.append(Problem(message, hint=consent_hint("--plugin", f"PATH/TO/{name}")))
        raise UserError(problems) from error


def judge_external_images(
    planned: PlannedRun, observer: Observer, run: Path, key: str, images: Path, origin: str
) -> tuple[Row, int]:
    """Add adversarial images that were made elsewhere to a cell, and rank the run again with them.

    Args:
        planned: The run, planned again.
        key: The key of the cell, or its beginning.
        images: A safetensors file, as `store_external` reads it.
        origin: Where the images come from, for the records.

    Returns:
        The new record of the cell, and the number of images that were outside the ball and do not count.

    Raises:
        UserError: There is no such cell, the file holds no such images, or the pipeline fails on them. The
            run is then unchanged.
    """
    cell = find_cell(planned.plan, key)
    entry, outside_ball = store_external(planned.context, cell, images, origin)
    trial = Plan.of(external_cells(planned.plan, [entry])[cell.key])
    failures = execute(trial, planned.context, observer).failures
    if failures:
        reason = next(iter(failures.values())).reason
        raise UserError(f"these images cannot be judged, and do not count: {reason}")
    add_external_entry(run, entry)
    completed = execute_run(planned, observer, run)
    return next(row for row in completed.records if row["key"] == cell.key), outside_ball
