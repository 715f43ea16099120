"""Computing published rows again, and setting the figures side by side."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.display import Silent
from benchmark.errors import UserError
from benchmark.leaderboard import COLUMNS as LEADERBOARD_COLUMNS
from benchmark.publishing.boards import COLUMNS, RUNS, identity, read_rows
from benchmark.publishing.entries import Run
from benchmark.records import Row
from benchmark.runs import prepare, run_prepared


@dataclass(frozen=True)
class Reproduced:
    """A published row and the one that was computed now; None where there is none."""

    published: Row
    now: Row | None
    same_code: bool
    outside: bool

    @property
    def verdict(self) -> str:
        """`same`, `within` the published interval, `lower` where images of others counted, else `OTHER`."""
        if self.now is None or self.now["error"] is None:
            return "OTHER"
        ours, theirs = self.now["error"], self.published["error"]
        if theirs is not None and ours == theirs and self.now["clean_error"] == self.published["clean_error"]:
            return "same"
        if theirs is not None and self.published["error_low"] <= ours <= self.published["error_high"]:
            return "within"
        return "lower" if self.outside and theirs is not None and ours <= theirs else "OTHER"

    def __str__(self) -> str:
        row = self.published
        code = "" if self.same_code else "; the code is not the one that made it"
        now = "no row" if self.now is None else _percent(self.now["error"])
        interval = f"[{_percent(row['error_low'])}, {_percent(row['error_high'])}]"
        return (
            f"{self.verdict:6} {row['defense']} on {row['target']}, {row['threat']} {row['norm']} "
            f"{row['eps']:g}: published {_percent(row['error'])} {interval}, now {now}{code}"
        )


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f} %"


def reproduce(
    path: Path,
    count: int,
    seed: int,
    *,
    data: Path | None,
    store: str | None,
    device: str,
    plugins: Sequence[Path],
) -> Iterator[Reproduced]:
    """Compute random rows of a published file again: the part of their grid that they rest on.

    Args:
        path: The file.
        count: How many rows.
        seed: Decides which.
        data: As in `bench run`.
        store: What it holds is not computed again; by default an empty one, so that everything is.
        device: As in `bench run`.
        plugins: As in `bench run`.

    Raises:
        UserError: The file is none, has fewer rows, or a run that they rest on is not there.
    """
    rows, problems = read_rows(path, COLUMNS)
    if problems:
        raise UserError(problems)
    if not 1 <= count <= len(rows):
        raise UserError(f"{path} has {len(rows)} rows, and {count} are to be computed again")
    with tempfile.TemporaryDirectory() as work:
        for number, row in enumerate(random.Random(seed).sample(rows, count)):
            run = Run(path.parent / RUNS / row["run"])
            told = run.about
            if "grid" not in told:
                raise UserError(f"run {row['run']} is not beside {path}: there is no run.json")
            observer = Silent()
            prepared = prepare(
                _grid_of(row, told["grid"]),
                observer,
                data=data,
                store=store or f"{work}/store",
                device=device,
                plugins=plugins,
                only=told.get("only", {}) | {name: [str(row[name])] for name in ("target", "defense")},
            )
            yield _compared(row, run, run_prepared(prepared, observer, Path(work) / str(number)).out)


def _grid_of(row: Row, grid: Mapping[str, Any]) -> Mapping[str, Any]:
    """The grid on the images of a row: where a contest shares fewer than its own cells have, these count."""
    return _with_n(grid, row["n"]) if row["bound"] == "found" else grid


def _with_n(grid: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The grid on no more than n images of each data set."""

    def sized(choice: Any) -> dict[str, Any]:
        entry = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
        return entry | {"n": min(n, entry.get("n", n))}

    found = dict(grid)
    if "blocks" in found:
        found["blocks"] = [_with_n(block, n) for block in found["blocks"]]
    if "datasets" in found:
        datasets = found["datasets"]
        found["datasets"] = [
            sized(choice) for choice in (datasets if isinstance(datasets, list) else [datasets])
        ]
    return found


def _compared(row: Row, run: Run, out: Path) -> Reproduced:
    rows, problems = read_rows(out / "leaderboard.csv", LEADERBOARD_COLUMNS)
    if problems:
        raise UserError(problems)
    now = next((other for other in rows if identity(other) == identity(row)), None)
    before, after = run.cells(row), Run(out).cells(row)
    sizes, keys = {cell["n"] for cell in before}, {cell["key"] for cell in before}
    same_code = all(cell["key"] in keys for cell in after if cell["n"] in sizes)
    return Reproduced(row, now, same_code, (run.folder / "outside.json").is_file())
