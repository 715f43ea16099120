"""Computing published rows again, and setting the figures side by side."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.display import Silent
from benchmark.errors import UserError
from benchmark.keys import SCHEMA
from benchmark.leaderboard import COLUMNS as LEADERBOARD_COLUMNS
from benchmark.publishing.boards import COLUMNS, RUNS, about, identity, read_rows
from benchmark.publishing.rows import doubts
from benchmark.publishing.run import Run, runs_in
from benchmark.records import Row
from benchmark.rerun import read_recorded, run_again
from benchmark.runs import run_prepared
from benchmark.trust import quoted


@dataclass(frozen=True)
class Reproduced:
    """A published row and the one that was computed now; None where there is none.

    `same_keys`: whether the cells have the keys that they were published with; None where they are of
    another number of images, and nothing can be said. `schema` is that of the published keys. `outside`:
    whether images from others counted.
    """

    published: Row
    now: Row | None
    same_keys: bool | None
    schema: int
    outside: bool

    @property
    def verdict(self) -> str:
        """`same`; `within` our interval; `lower`, where images of others counted; else `OTHER`."""
        row, now = self.published, self.now
        if now is None or any(now[name] != row[name] for name in ("n", "seeds", "judge")):
            return "OTHER"
        if set(doubts(now["flags"])) - set(doubts(row["flags"])):
            return "OTHER"
        if (now["error"], now["clean_error"]) == (row["error"], row["clean_error"]):
            return "same"
        if now["error_low"] <= row["error"] <= now["error_high"]:
            return "within"
        return "lower" if self.outside and now["error"] <= row["error"] else "OTHER"

    def __str__(self) -> str:
        row, now = self.published, self.now
        keys = {
            None: "; of other cells",
            True: "",
            False: "; under other keys: a version or a setting changed",
        }
        note = (
            keys[self.same_keys]
            if self.schema == SCHEMA
            else f"; published under keys of schema {self.schema}"
        )
        return (
            f"{self.verdict:6} {about(row)}: published {_told(row)}, now "
            f"{'no row' if now is None else _told(now)}{note}"
        )


def _told(row: Row) -> str:
    interval = f"[{_percent(row['error_low'])}, {_percent(row['error_high'])}]"
    raised = f" in doubt ({', '.join(doubts(row['flags']))})" if doubts(row["flags"]) else ""
    return f"{_percent(row['error'])} {interval} of {row['n']}{raised}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def reproduce(
    path: Path,
    count: int,
    seed: int,
    *,
    data: Path | None,
    store: str | None,
    device: str,
    plugins: Sequence[Path],
    trust: Sequence[str | Path] = (),
) -> Iterator[Reproduced]:
    """Compute random rows of a published file again: the part of their grid that they rest on.

    Rows that claim something come before controls.

    Args:
        path: The file.
        count: How many rows, or all where there are fewer.
        seed: Decides which.
        data: As in `bench run`.
        store: What it holds is not computed again; by default an empty one, so that everything is computed
            but the trainings that the zoo has.
        device: As in `bench run`.
        plugins: As in `bench run`. Plugin files that were published with a row run only if they are named.
        trust: As in `bench run`.

    Raises:
        UserError: The file is none, a run that a row rests on is not there or cannot be planned, or it needs
            code that is not given; names the options to add.
    """
    rows, problems = read_rows(path, COLUMNS)
    if problems:
        raise UserError(problems)
    order = random.Random(seed).sample(rows, len(rows))
    order.sort(key=lambda row: bool(row["control"]))
    run_of = runs_in(path.parent / RUNS)
    with tempfile.TemporaryDirectory() as work:
        for number, row in enumerate(order[:count]):
            run = run_of(row)
            _refuse_unnamed(run, plugins)
            recorded = read_recorded(run.folder)
            only = {**recorded.only, **{name: [str(row[name])] for name in ("target", "defense")}}
            only.pop("n", None)  # a smaller part of the images may be wanted here
            observer = Silent()
            prepared = run_again(
                replace(recorded, grid=_grid_of(row, recorded.grid), only=only),
                observer,
                data=data,
                store=store or f"{work}/store",
                device=device,
                plugins=plugins,
                trust=trust,
            )
            yield _compared(row, run, run_prepared(prepared, observer, Path(work) / str(number)).out)


def _refuse_unnamed(run: Run, given: Sequence[Path]) -> None:
    """Refuse to reproduce without the plugin files that were published with the run.

    That they lie beside the row is no consent to run them.
    """
    named = {path.name for path in given}
    missing = [path for path in run.kept_plugins if path.name not in named]
    if missing:
        options = " ".join(f"--plugin {quoted(path)}" for path in missing)
        names = ", ".join(path.name for path in missing)
        raise UserError(
            f"run {run.folder.name} was made with plugin files of its own ({names}), not run unasked",
            hint=f"read them; if you trust them, repeat the command with {options}",
        )


def _grid_of(row: Row, grid: Mapping[str, Any]) -> Mapping[str, Any]:
    """The grid on the images of a row: where a contest shares fewer than its own cells have, these count."""
    return _with_n(grid, row["n"]) if row["bound"] == "found" else grid


def _with_n(grid: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The grid on no more than n images of each data set; a part that is no grid stays for its refusal."""

    def sized(choice: Any) -> dict[str, Any]:
        entry = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
        earlier = entry.get("n") or n
        return entry | {"n": min(n, earlier) if isinstance(earlier, int) else earlier}

    found = dict(grid)
    if isinstance(found.get("blocks"), list):
        found["blocks"] = [_with_n(b, n) if isinstance(b, Mapping) else b for b in found["blocks"]]
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
    before, after = run.counting(row), Run(out).counting(row)
    keys = {cell["key"] for cell in before}
    alike = {cell["n"] for cell in before} == {cell["n"] for cell in after}
    same_keys = all(cell["key"] in keys for cell in after) if alike else None
    return Reproduced(row, now, same_keys, run.schema, (run.folder / "outside.json").is_file())
