"""Computes published rows again and compares the results."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.execution.observer import Silent
from benchmark.files.tables import Row
from benchmark.finished_runs import read_settings, reload_run
from benchmark.plugins.trust import quoted
from benchmark.publishing.board_files import BOARD_COLUMNS, RUNS, describe_row, read_rows, row_identity
from benchmark.publishing.published_run import Run, runs_in
from benchmark.publishing.row_checks import doubts
from benchmark.results.columns import LEADERBOARD_COLUMNS
from benchmark.runs import execute_run
from benchmark.storage.keys import SCHEMA


@dataclass(frozen=True)
class Reproduction:
    """A published row and its recomputation.

    Attributes:
        recomputed: The row that was computed now; None if the run gave no such row.
        same_keys: Whether the cells have the published keys; None if the numbers of images differ, so that
            keys cannot be compared.
        schema: The schema of the published keys.
        external_images: Whether external images counted for the published row.
    """

    published: Row
    recomputed: Row | None
    same_keys: bool | None
    schema: int
    external_images: bool

    @property
    def verdict(self) -> str:
        """`same`, `within` the recomputed interval, `lower` (explained by external images), or `OTHER`."""
        row, new = self.published, self.recomputed
        if new is None or any(new[name] != row[name] for name in ("n", "seeds", "judge")):
            return "OTHER"
        if set(doubts(new["flags"])) - set(doubts(row["flags"])):
            return "OTHER"
        if (new["error"], new["clean_error"]) == (row["error"], row["clean_error"]):
            return "same"
        if new["error_low"] <= row["error"] <= new["error_high"]:
            return "within"
        return "lower" if self.external_images and new["error"] <= row["error"] else "OTHER"

    def __str__(self) -> str:
        if self.schema != SCHEMA:
            note = f"; published under keys of schema {self.schema}"
        elif self.same_keys is None:
            note = "; on other cells"
        else:
            note = "" if self.same_keys else "; under other keys: a version or a setting changed"
        new = "no row" if self.recomputed is None else _error_text(self.recomputed)
        row = self.published
        return f"{self.verdict:6} {describe_row(row)}: published {_error_text(row)}, now {new}{note}"


def _error_text(row: Row) -> str:
    error, low, high = (f"{100 * row[name]:.1f} %" for name in ("error", "error_low", "error_high"))
    raised = f", doubts: {', '.join(doubts(row['flags']))}" if doubts(row["flags"]) else ""
    return f"{error} [{low}, {high}] of {row['n']}{raised}"


def reproduce(
    path: Path, count: int, seed: int, *, store: str | None, plugins: Sequence[Path], **options: Any
) -> Iterator[Reproduction]:
    """Compute random rows of a published file again, each with the part of its grid that it depends on.

    Controls come last.

    Args:
        path: The file.
        count: How many rows; all if there are fewer.
        seed: Selects the rows.
        store: A store whose results are reused. Default: an empty one, so that everything is computed except
            trainings from the zoo.
        plugins: Plugin files that were published with a row run only if they are named.
        **options: `data`, `device` and `trust`, as in `bench run`.

    Raises:
        UserError: The file is invalid, the run of a row is missing or cannot be planned, or it needs code
            that was not named; names the options to add.
    """
    rows, problems = read_rows(path, BOARD_COLUMNS)
    if problems:
        raise UserError(problems)
    order = sorted(random.Random(seed).sample(rows, len(rows)), key=lambda row: bool(row["control"]))
    run_of = runs_in(path.parent / RUNS)
    with tempfile.TemporaryDirectory() as work:
        for number, row in enumerate(order[:count]):
            run = run_of(row)
            _require_named_plugins(run, plugins)
            recorded = read_settings(run.folder)
            only = {**recorded.only, **{name: [str(row[name])] for name in ("target", "defense")}}
            # Ranked rows may share fewer images than their cells have.
            grid = _limit_images(recorded.grid, row["n"]) if row["bound"] == "found" else recorded.grid
            only.pop("n", None)  # the grid has the number of images
            settings = replace(recorded, grid=grid, only=only)
            at = store or f"{work}/store"
            planned = reload_run(settings, Silent(), store=at, plugins=plugins, **options)
            yield _compare(row, run, execute_run(planned, Silent(), Path(work) / str(number)).out)


def _require_named_plugins(run: Run, files: Sequence[Path]) -> None:
    """Raise UserError unless the user named all plugin files of the run.

    Publishing a file with a row is not the consent of whoever verifies it to run that file.
    """
    named = {path.name for path in files}
    missing = [path for path in run.kept_plugins if path.name not in named]
    if missing:
        options = " ".join(f"--plugin {quoted(path)}" for path in missing)
        names = ", ".join(path.name for path in missing)
        raise UserError(
            f"run {run.folder.name} needs its own plugin files ({names}), which run only if you name them",
            hint=f"read them; if you trust them, repeat the command with {options}",
        )


def _limit_images(grid: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The grid with at most n images of each data set; invalid parts stay, so that planning reports them."""

    def limited(dataset: Any) -> dict[str, Any]:
        entry = dict(dataset) if isinstance(dataset, Mapping) else {"name": dataset}
        size = entry.get("n") or n
        return entry | {"n": min(n, size) if isinstance(size, int) else size}

    result = dict(grid)
    if isinstance(blocks := result.get("blocks"), list):
        result["blocks"] = [_limit_images(b, n) if isinstance(b, Mapping) else b for b in blocks]
    if "datasets" in result:
        datasets = result["datasets"]
        result["datasets"] = [limited(d) for d in (datasets if isinstance(datasets, list) else [datasets])]
    return result


def _compare(row: Row, run: Run, out: Path) -> Reproduction:
    rows, problems = read_rows(out / "leaderboard.csv", LEADERBOARD_COLUMNS)
    if problems:
        raise UserError(problems)
    recomputed = next((other for other in rows if row_identity(other) == row_identity(row)), None)
    before, after = run.cells(row), Run(out).cells(row)
    keys = {cell["key"] for cell in before}
    same_sizes = {cell["n"] for cell in before} == {cell["n"] for cell in after}
    same_keys = all(cell["key"] in keys for cell in after) if same_sizes else None
    return Reproduction(row, recomputed, same_keys, run.schema, (run.folder / "outside.json").is_file())
