"""The measurements of a run arranged in the tables that papers have, without their formatting."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import pandas as pd

from benchmark.files.tables import Row
from benchmark.metrics.statistics import wilson
from benchmark.plan.threats import THREATS
from benchmark.report.row_labels import labelled
from benchmark.results.cell_outcomes import group_by
from benchmark.results.flags import FLAGS, is_doubt
from benchmark.results.significance import ImageErrors, significantly_best

KINDS: Mapping[str, str] = {
    "errors": "error by attack and defense",
    "eps": "error by eps, of attacks with more than one",
    "threats": "error by what the attacker knows, with the gap",
    "clean": "benign inputs",
    "success": "success rate of the attacks",
    "distance": "median distance that attacks which minimise it needed",
    "fidelity": "PSNR and SSIM before and after the defense",
}
"""The kinds of tables and what they show, in the order of a block."""

NO_DEFENSE = "no defense"

_MAX_COLUMNS = 8
"""Tables with more defenses than this list them in rows."""


@dataclass(frozen=True)
class Measurement:
    """One value of a table.

    Attributes:
        value: A rate as a fraction, PSNR in dB, SSIM, milliseconds, or a distance; NaN if not available.
        low: Lower end of the 95 % Wilson interval; over several seeds, the lowest of all.
        high: Upper end of the interval; over several seeds, the highest of all.
        lower_bound: Whether a doubt withholds any claim that the value is no larger.
        status: The reason if a value is missing because something went wrong.
        best: Whether it is significantly lower than all others of its row.
    """

    measure: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    flags: tuple[str, ...] = ()
    lower_bound: bool = False
    status: str = "ok"
    best: bool = False


Measurements = tuple[Measurement, ...]


@dataclass(frozen=True)
class Table:
    """Measurements in rows and columns.

    Attributes:
        kind: One of `KINDS`.
        attacker: The attacker that it is about; empty if it is about several or none.
        index_names: A heading for each level of the index.
        frame: Tuples of `Measurement`; NaN if a combination was not run.
    """

    kind: str
    title: str
    attacker: str
    index_names: tuple[str, ...]
    frame: pd.DataFrame

    def oriented(self) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """The frame as it is shown, transposed if it would be too wide, and the headings of its index."""
        if len(self.frame.columns) > _MAX_COLUMNS:
            return self.frame.T, ("defense",)
        return self.frame, self.index_names

    def measurements(self) -> Iterator[tuple[Any, Any, Measurement]]:
        """Every measurement with the labels of its row and column."""
        for label, row in self.frame.iterrows():
            for column, cell in row.items():
                if isinstance(cell, tuple):
                    yield from ((label, column, measurement) for measurement in cell)


@dataclass(frozen=True)
class TableBlock:
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
    records: pd.DataFrame,
    image_errors: Mapping[str, ImageErrors] | None,
    kinds: Collection[str] = tuple(KINDS),
) -> list[TableBlock]:
    """Make the tables of a run, without skipped cells; without `image_errors` no error is marked best."""
    tried = records[records["status"] != "skipped"]
    if tried.empty:
        return []
    # Lists of rows from here on: thousands of tiny data frames would take most of a minute.
    rows = labelled(tried).assign(flags=tried["flags"].fillna("")).to_dict("records")
    blocks = []
    for (dataset, target, n), part in group_by(rows, itemgetter("dataset", "target", "n")).items():
        tables = tuple(table for table in _tables(part, image_errors or {}) if table.kind in kinds)
        blocks.append(TableBlock(str(dataset), str(target), int(n), _seeds(part), tables))
    return blocks


def _tables(block: list[Row], image_errors: Mapping[str, ImageErrors]) -> Iterator[Table]:
    parts = [
        (threat, str(attacker), part)
        for threat in THREATS
        for attacker, part in _by([row for row in block if row["threat"] == threat], "attacker").items()
    ]
    for threat, attacker, part in parts:
        title = f"{attacker}: {THREATS[threat].title}"
        yield Table("errors", title, attacker, ("attack",), _errors(part, image_errors))
    for threat, attacker, part in parts:
        for attack, rows in _by(part, "attack_label").items():
            values = sorted({row["eps"] for row in rows if not pd.isna(row["eps"])})
            if len(values) > 1:
                frame = _errors(sorted(rows, key=lambda row: float(row["eps"])), image_errors)
                frame.index = pd.Index(["0", *(f"{eps:g}" for eps in values)])
                title = f"{attack} by ε, {attacker}: {THREATS[threat].title}"
                yield Table("eps", title, attacker, ("ε",), frame)
    if len(parts) > 1:
        yield _by_threat(block, [(threat, attacker) for threat, attacker, _ in parts])
    yield _clean(block)
    for _, attacker, part in parts:
        title = f"{attacker}: success among images right when clean"
        yield Table("success", title, attacker, ("attack",), _frame(part, _success))
    for _, attacker, part in parts:
        minimising = [row for row in part if pd.isna(row["eps"]) and not pd.isna(row["norm"])]
        if minimising:
            title = f"{attacker}: median distance that it took to break an image, in the norm of the attack"
            yield Table("distance", title, attacker, ("attack",), _frame(minimising, _distance))
    for threat, attacker, part in parts:
        ok = [row for row in part if row["status"] == "ok"]
        if THREATS[threat].images_made_on_target and ok:
            title = f"PSNR (dB) / SSIM against the clean image, {attacker}"
            yield Table("fidelity", title, attacker, ("attack",), _fidelity(ok))


def _by(rows: list[Row], column: str) -> dict[Any, list[Row]]:
    return group_by(rows, itemgetter(column))


def _errors(part: list[Row], image_errors: Mapping[str, ImageErrors]) -> pd.DataFrame:
    """Attacks in rows, defenses in columns; the clean images come first, and so does the bare target."""
    by_line = _by(part, "line")
    best = {line: significantly_best(rows, image_errors) for line, rows in by_line.items()}

    def cell(rows: list[Row]) -> Measurements:
        return (replace(_error(rows)[0], best=rows[0]["column"] == best[rows[0]["line"]]),)

    frame = _frame(part, cell)
    bare = {line: _rate(rows, "error_baseline") for line, rows in by_line.items()}
    frame.insert(0, NO_DEFENSE, pd.Series(bare))
    clean: dict[str, Measurements] = {NO_DEFENSE: _rate(part, "clean_error_target")}
    clean |= {column: _rate(rows, "clean_error") for column, rows in _by(part, "column").items()}
    whole: pd.DataFrame = pd.concat([pd.DataFrame([clean], index=["clean"]), frame])
    return whole


def _by_threat(block: list[Row], attackers: list[tuple[str, str]]) -> Table:
    """The error for each attacker, and how much higher it is if the attacker knows more."""
    lines = list(_by(block, "line"))
    rows = sorted(block, key=lambda row: lines.index(row["line"]))
    frame = _frame(rows, _error, ("line", "column"), "attacker")[[attacker for _, attacker in attackers]]
    pairs = [
        (strong, weak)
        for threat, strong in attackers
        for weak in [attacker for name, attacker in attackers if name in THREATS[threat].nested][:1]
    ]
    for strong, weak in pairs:
        name = "gap" if len(pairs) == 1 else f"{strong} − {weak}"
        frame[name] = [_gap(*cells) for cells in zip(frame[strong], frame[weak], strict=True)]
    return Table("threats", "error by what the attacker knows", "", ("attack", "defense"), frame)


def _gap(strong: Any, weak: Any) -> Measurements:
    """The difference; empty if the weaker attacker's error is itself a lower bound."""
    if isinstance(strong, tuple) and isinstance(weak, tuple) and not weak[0].lower_bound:
        return (Measurement("gap", strong[0].value - weak[0].value, lower_bound=strong[0].lower_bound),)
    return (Measurement("gap"),)


def _clean(block: list[Row]) -> Table:
    """The effect of each defense on clean images."""

    def row(rows: list[Row]) -> dict[str, Measurements]:
        added = _mean(rows, "clean_error") - _mean(rows, "clean_error_target")
        return {
            "error": _rate(rows, "clean_error"),
            "added": (Measurement("added", added),),
            "damaged": (Measurement("damaged", _mean(rows, "damaged")),),
            "ms per image": (Measurement("purify_ms", _mean(rows, "purify_ms")),),
        }

    rows = {NO_DEFENSE: {"error": _rate(block, "clean_error_target")}}
    rows |= {str(column): row(part) for column, part in _by(block, "column").items()}
    return Table("clean", "benign inputs", "", ("defense",), pd.DataFrame.from_dict(rows, orient="index"))


def _fidelity(part: list[Row]) -> pd.DataFrame:
    def pair(rows: list[Row], suffix: str = "") -> Measurements:
        return tuple(Measurement(name, _mean(rows, name + suffix)) for name in ("psnr", "ssim"))

    frame = _frame(part, pair)
    before = {line: pair(rows, "_adv") for line, rows in _by(part, "line").items()}
    frame.insert(0, "attacked", pd.Series(before))
    return frame


def _frame(
    part: list[Row],
    cell: Callable[[list[Row]], Measurements],
    index: tuple[str, ...] = ("line",),
    column: str = "column",
) -> pd.DataFrame:
    """Measurements by row and column, both in the order of the rows; NaN if a combination was not run."""
    columns: dict[str, dict[Any, Measurements]] = {name: {} for name in _by(part, column)}
    by_index = group_by(part, itemgetter(*index))
    for label, rows in by_index.items():
        for name, members in _by(rows, column).items():
            columns[name][label] = cell(members)
    frame = pd.DataFrame({name: pd.Series(cells) for name, cells in columns.items()})
    ordered: pd.DataFrame = frame.reindex(pd.Index(list(by_index)))
    return ordered


def _mean(rows: Iterable[Row], measure: str) -> float:
    """The mean over the rows that have a value; NaN if there is none."""
    values = [row[measure] for row in rows if not pd.isna(row[measure])]
    return sum(values) / len(values) if values else math.nan


def _error(rows: list[Row]) -> Measurements:
    bounds = [(row["error_low"], row["error_high"]) for row in rows if row["status"] == "ok"]
    return (_with_flags(rows, "error", bounds),)


def _success(rows: list[Row]) -> Measurements:
    """Success among the images that the pipeline gets right when clean."""
    known = [row for row in rows if not pd.isna(row["attack_success"])]
    sizes = [(row["attack_success"], round(row["n"] * (1 - row["clean_error"]))) for row in known]
    return (_with_flags(rows, "attack_success", [wilson(round(rate * n), n) for rate, n in sizes]),)


def _distance(rows: list[Row]) -> Measurements:
    """Infinite if over half of the images are robust; with a doubt a smaller distance may suffice."""
    measurement = _with_flags(rows, "distance", [])
    if measurement.status == "ok":
        measurement = replace(measurement, value=_mean(rows, rows[0]["norm"]), lower_bound=False)
    return (measurement,)


def _with_flags(rows: list[Row], measure: str, bounds: list[tuple[float, float]]) -> Measurement:
    """The mean over seeds with the flags of all cells; no value if any cell has none."""
    for status in ("failed", "budget"):
        if any(row["status"] == status for row in rows):
            return Measurement(measure, status=status)
    raised = {flag for row in rows for flag in row["flags"].split()}
    flags = tuple(flag for flag in FLAGS if flag in raised)
    in_doubt = any(map(is_doubt, flags))
    return replace(_with_bounds(rows, measure, bounds), flags=flags, lower_bound=in_doubt)


def _rate(rows: list[Row], measure: str) -> Measurements:
    """A rate among all images."""
    known = [(row[measure], int(row["n"])) for row in rows if not pd.isna(row[measure])]
    return (_with_bounds(rows, measure, [wilson(round(rate * n), n) for rate, n in known]),)


def _with_bounds(rows: list[Row], measure: str, bounds: list[tuple[float, float]]) -> Measurement:
    if not bounds:
        return Measurement(measure)
    lows, highs = zip(*bounds, strict=True)
    return Measurement(measure, _mean(rows, measure), min(lows), max(highs))


def _seeds(block: list[Row]) -> str:
    """The numbers of seeds that values are averaged over, if there are several."""
    columns = ("target_seed", "defense_seed", "attack_seed")
    counts = {name: len({row[name] for row in block if not pd.isna(row[name])}) for name in columns}
    return "".join(f", mean of {n} {name.replace('_', ' ')}s" for name, n in counts.items() if n > 1)
