"""The figures of a run arranged as papers arrange them: what stands in which table, not how it is set."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from benchmark.flags import FLAGS, is_doubt
from benchmark.labels import labelled
from benchmark.paired import Judged, clearly_best
from benchmark.records import Row
from benchmark.stats import wilson
from benchmark.threats import THREATS

KINDS: Mapping[str, str] = {
    "errors": "error by attack and defense",
    "eps": "error by eps, of attacks with more than one",
    "threats": "error by what the attacker knows, with the gap",
    "clean": "benign inputs",
    "success": "success rate of the attacks",
    "distance": "median distance that attacks which minimise it needed",
    "fidelity": "PSNR and SSIM before and after the defense",
}
"""The kinds of tables, in the order in which a block holds them, each with what it shows."""

NO_DEFENSE = "no defense"

_MOST_ACROSS = 8
"""Tables of more defenses than this list them downwards."""

_UNAVAILABLE = ("failed", "budget")

_CLEAN = ("error", "added", "damaged", "ms per image")


@dataclass(frozen=True)
class Figure:
    """One figure of a table: a rate as a fraction, PSNR in dB, SSIM, milliseconds, or a distance.

    `low` and `high` are its 95 % Wilson interval; over several seeds, from the lowest bound of any to the
    highest. `lower_bound` says that a doubt withholds any claim that the figure is no larger. `value` is NaN
    where nothing applies, and `status` then says why if something went wrong.
    """

    measure: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    flags: tuple[str, ...] = ()
    lower_bound: bool = False
    status: str = "ok"
    best: bool = False


Cell = tuple[Figure, ...]


@dataclass(frozen=True)
class Table:
    """Figures in rows and columns.

    Attributes:
        kind: One of `KINDS`.
        title: What heads it.
        attacker: Whom it is about; empty where it is about several or none.
        down: What the rows are called: one name for each level of the index.
        frame: Tuples of `Figure`; a combination that was not run is missing.
    """

    kind: str
    title: str
    attacker: str
    down: tuple[str, ...]
    frame: pd.DataFrame


@dataclass(frozen=True)
class Block:
    """The tables of one data set, target and number of images."""

    dataset: str
    target: str
    n: int
    seeds: str
    tables: tuple[Table, ...]

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.target} (n = {self.n}{self.seeds})"


def make_blocks(
    records: pd.DataFrame, judged: Mapping[str, Judged] | None, kinds: Collection[str] = tuple(KINDS)
) -> list[Block]:
    """All tables of a run.

    Args:
        records: The records, as `records.csv` holds them; skipped cells are left out.
        judged: By key of a cell, which images were wrong; None where that is not known, and then no figure
            is the best of its row.
        kinds: Which kinds of tables to make.
    """
    tried = records[records["status"] != "skipped"]
    if tried.empty:
        return []
    # Lists of rows from here on: thousands of tiny data frames would take most of a minute.
    rows = labelled(tried).assign(flags=tried["flags"].fillna("")).to_dict("records")
    blocks = []
    for (dataset, target, n), part in grouped(rows, "dataset", "target", "n").items():
        tables = tuple(table for table in _tables(part, judged or {}) if table.kind in kinds)
        blocks.append(Block(str(dataset), str(target), int(n), _seeds(part), tables))
    return blocks


def grouped(rows: Iterable[Row], *by: str) -> dict[Any, list[Row]]:
    """Rows by the values of columns (a tuple of several), in the order in which these come."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[by[0]] if len(by) == 1 else tuple(row[name] for name in by), []).append(row)
    return groups


def _tables(block: list[Row], judged: Mapping[str, Judged]) -> Iterator[Table]:
    parts = [
        (name, str(attacker), part)
        for name in THREATS
        for attacker, part in grouped([row for row in block if row["threat"] == name], "attacker").items()
    ]
    for name, attacker, part in parts:
        title = f"{attacker}: {THREATS[name].title}"
        yield Table("errors", title, attacker, ("attack",), _errors(part, judged))
    for name, attacker, part in parts:
        yield from _sweeps(part, attacker, THREATS[name].title, judged)
    if len(parts) > 1:
        yield _by_knowledge(block, [(name, attacker) for name, attacker, _ in parts])
    yield _clean(block)
    for _, attacker, part in parts:
        title = f"{attacker}: success among images right when clean"
        yield Table("success", title, attacker, ("attack",), _frame(part, _success))
    for _, attacker, part in parts:
        nearest = [row for row in part if pd.isna(row["eps"]) and not pd.isna(row["norm"])]
        if nearest:
            title = f"{attacker}: median distance that it took to break an image, in the norm of the attack"
            yield Table("distance", title, attacker, ("attack",), _frame(nearest, _distance))
    for name, attacker, part in parts:
        ok = [row for row in part if row["status"] == "ok"]
        if THREATS[name].images_made_on_target and ok:
            title = f"PSNR (dB) / SSIM against the clean image, {attacker}"
            yield Table("fidelity", title, attacker, ("attack",), _fidelity(ok))


def _errors(part: list[Row], judged: Mapping[str, Judged]) -> pd.DataFrame:
    """Attacks down, defenses across; the clean images on top and the bare target on the left."""
    best = {line: clearly_best(rows, judged) for line, rows in grouped(part, "line").items()}

    def cell(rows: list[Row]) -> Cell:
        return (replace(_error(rows)[0], best=rows[0]["column"] == best[rows[0]["line"]]),)

    frame = _frame(part, cell)
    bare = {line: _rate(rows, "error_baseline") for line, rows in grouped(part, "line").items()}
    frame.insert(0, NO_DEFENSE, pd.Series(bare))
    clean: dict[str, Cell] = {NO_DEFENSE: _rate(part, "clean_error_target")}
    clean |= {column: _rate(rows, "clean_error") for column, rows in grouped(part, "column").items()}
    whole: pd.DataFrame = pd.concat([pd.DataFrame([clean], index=["clean"]), frame])
    return whole


def _sweeps(part: list[Row], attacker: str, title: str, judged: Mapping[str, Judged]) -> Iterator[Table]:
    for attack, rows in grouped(part, "attack_label").items():
        values = sorted({row["eps"] for row in rows if not pd.isna(row["eps"])})
        if len(values) > 1:
            frame = _errors(sorted(rows, key=lambda row: float(row["eps"])), judged)
            frame.index = pd.Index(["0", *(f"{eps:g}" for eps in values)])
            yield Table("eps", f"{attack} by ε, {attacker}: {title}", attacker, ("ε",), frame)


def _by_knowledge(block: list[Row], attackers: list[tuple[str, str]]) -> Table:
    """Each attacker beside the others, and how much more the one who knows more breaks."""
    lines = list(grouped(block, "line"))
    rows = sorted(block, key=lambda row: lines.index(row["line"]))
    frame = _frame(rows, _error, ("line", "column"), "attacker")[[attacker for _, attacker in attackers]]
    gaps = [
        (strong, next((weak for name, weak in attackers if name in THREATS[threat].nested), None))
        for threat, strong in attackers
    ]
    known = [(strong, weak) for strong, weak in gaps if weak is not None]
    for strong, weak in known:
        name = "gap" if len(known) == 1 else f"{strong} − {weak}"
        frame[name] = [_gap(above, below) for above, below in zip(frame[strong], frame[weak], strict=True)]
    return Table("threats", "error by what the attacker knows", "", ("attack", "defense"), frame)


def _gap(strong: Any, weak: Any) -> Cell:
    """The difference in points; nothing where the weaker attacker's figure is a lower bound itself."""
    if isinstance(strong, tuple) and isinstance(weak, tuple) and not weak[0].lower_bound:
        return (Figure("gap", strong[0].value - weak[0].value, lower_bound=strong[0].lower_bound),)
    return (Figure("gap"),)


def _clean(block: list[Row]) -> Table:
    """What the defense does to images that nobody attacked."""

    def row(rows: list[Row]) -> dict[str, Cell]:
        added = mean(rows, "clean_error") - mean(rows, "clean_error_target")
        others = (Figure(name, mean(rows, name)) for name in ("damaged", "purify_ms"))
        cells = (*_rate(rows, "clean_error"), Figure("added", added), *others)
        return {name: (cell,) for name, cell in zip(_CLEAN, cells, strict=True)}

    rows = {NO_DEFENSE: {_CLEAN[0]: _rate(block, "clean_error_target")}}
    rows |= {str(column): row(part) for column, part in grouped(block, "column").items()}
    return Table("clean", "benign inputs", "", ("defense",), pd.DataFrame.from_dict(rows, orient="index"))


def _fidelity(part: list[Row]) -> pd.DataFrame:
    def pair(rows: list[Row], suffix: str = "") -> Cell:
        return tuple(Figure(name, mean(rows, name + suffix)) for name in ("psnr", "ssim"))

    frame = _frame(part, pair)
    before = {line: pair(rows, "_adv") for line, rows in grouped(part, "line").items()}
    frame.insert(0, "attacked", pd.Series(before))
    return frame


def _frame(
    part: list[Row],
    cell: Callable[[list[Row]], Cell],
    down: tuple[str, ...] = ("line",),
    across: str = "column",
) -> pd.DataFrame:
    """Cells by row and column, both in the order in which the rows come; what was not run is NaN."""
    columns: dict[str, dict[Any, Cell]] = {name: {} for name in grouped(part, across)}
    for place, rows in grouped(part, *down).items():
        for name, cells in grouped(rows, across).items():
            columns[name][place] = cell(cells)
    order = pd.Index(list(grouped(part, *down)))
    frame: pd.DataFrame = pd.DataFrame({n: pd.Series(c) for n, c in columns.items()}).reindex(order)
    return frame


def mean(rows: Iterable[Row], measure: str) -> float:
    """The mean over the rows that have a figure; NaN where none has."""
    values = [row[measure] for row in rows if not pd.isna(row[measure])]
    return sum(values) / len(values) if values else math.nan


def _error(rows: list[Row]) -> Cell:
    bounds = [(row["error_low"], row["error_high"]) for row in rows if row["status"] == "ok"]
    return (_judged(rows, "error", bounds),)


def _success(rows: list[Row]) -> Cell:
    """Of the images that the pipeline gets right when clean."""
    counted = [row for row in rows if not pd.isna(row["attack_success"])]
    sizes = [(row["attack_success"], round(row["n"] * (1 - row["clean_error"]))) for row in counted]
    return (_judged(rows, "attack_success", [wilson(round(rate * n), n) for rate, n in sizes]),)


def _distance(rows: list[Row]) -> Cell:
    """Infinite where over half of the images withstood; a doubt means that less may do."""
    judged = _judged(rows, "distance", [])
    if judged.status != "ok":
        return (judged,)
    return (replace(judged, value=mean(rows, rows[0]["norm"]), lower_bound=False),)


def _judged(rows: list[Row], measure: str, bounds: list[tuple[float, float]]) -> Figure:
    """The mean over seeds, with the flags of any; no figure where a cell of them has none."""
    for status in _UNAVAILABLE:
        if any(row["status"] == status for row in rows):
            return Figure(measure, status=status)
    raised = {flag for row in rows for flag in row["flags"].split()}
    flags = tuple(flag for flag in FLAGS if flag in raised)
    bounded = any(is_doubt(flag) for flag in flags)
    return replace(_with_bounds(rows, measure, bounds), flags=flags, lower_bound=bounded)


def _rate(rows: list[Row], measure: str) -> Cell:
    """A rate among all images."""
    known = [(row[measure], int(row["n"])) for row in rows if not pd.isna(row[measure])]
    return (_with_bounds(rows, measure, [wilson(round(rate * n), n) for rate, n in known]),)


def _with_bounds(rows: list[Row], measure: str, bounds: list[tuple[float, float]]) -> Figure:
    if not bounds:
        return Figure(measure)
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    return Figure(measure, mean(rows, measure), low, high)


def _seeds(block: list[Row]) -> str:
    """How many trainings and attack runs a figure is the mean of, where that is more than one."""
    columns = ("target_seed", "defense_seed", "attack_seed")
    counts = {name: len({row[name] for row in block if not pd.isna(row[name])}) for name in columns}
    many = {name: count for name, count in counts.items() if count > 1}
    return "".join(f", mean of {count} {name.replace('_', ' ')}s" for name, count in many.items())


def across(table: Table) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The frame as it is set and what its rows are called: turned where it would be too wide."""
    if len(table.frame.columns) > _MOST_ACROSS:
        return table.frame.T, ("defense",)
    return table.frame, table.down
