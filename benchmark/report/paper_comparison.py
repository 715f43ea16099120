"""Comparison of a run with the published values of a paper, which are in `papers/` with their sources."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UserError, nearest
from benchmark.files.tables import Row
from benchmark.metrics.statistics import wilson
from benchmark.results.cell_outcomes import group_by
from benchmark.results.flags import any_doubt

PAPERS = Path(__file__).parents[1] / "papers"

_SAME_EPS = 1e-4
_CONFIGS = ("target_config", "defense_config", "attack_config")
_DECISIVE = ("adversarial", "craft_on")
"""Parameters that have to agree: with other values it is another experiment, which is not compared."""

_PIPELINE = ("dataset", "target", "target_config", "defense_config", "target_seed", "defense_seed")


@dataclass(frozen=True)
class Pair:
    """A published value, with the measured error rate and its interval if the run has a matching cell.

    `differs` lists the settings in which the run differs from the paper.
    """

    published: Row
    ours: float | None = None
    low: float = math.nan
    high: float = math.nan
    n: int | None = None
    differs: tuple[str, ...] = ()

    @property
    def theirs(self) -> float:
        """The published value as a fraction; as an error if it can be converted to one."""
        error = self.published["error"]
        return float(self.published["value"]) / 100 if error is None else float(error)

    @property
    def inside(self) -> bool | None:
        """Whether the published value lies in our 95 % interval; None without a measured one."""
        return None if self.ours is None else self.low <= self.theirs <= self.high


def papers() -> list[str]:
    """Names of the papers with published values."""
    return sorted(path.stem for path in PAPERS.glob("*.csv"))


def published(name: str) -> list[Row]:
    """The values of a paper, one row each as described in `papers/README.md`; empty fields are None.

    Raises:
        UserError: There is no such paper; gives the nearest names.
    """
    if name not in papers():
        raise UserError(f"no published values of {name!r}", hint=nearest(name, papers()))
    frame = pd.read_csv(PAPERS / f"{name}.csv", dtype={"table": str, "value": str}).astype(object)
    rows: list[Row] = frame.where(frame.notna(), None).to_dict("records")
    return [row | {column: json.loads(row[column] or "{}") for column in _CONFIGS} for row in rows]


def compare(records: pd.DataFrame, name: str, copies: Mapping[str, str] | None = None) -> list[Pair]:
    """Pair each published value of a paper with the value of a run; one `Pair` for each published value.

    Values for which the run has no matching cell are returned without a measured one.

    Args:
        records: The records of the run, as in `records.csv`.
        name: The paper.
        copies: Maps data sets of the run to the data sets of the paper that they are copies of.

    Raises:
        UserError: There is no such paper.
    """
    rows = published(name)
    plain = records["dataset"].astype(str).str.split(" ").str[0]
    named = records.assign(counts_as=plain.replace(dict(copies or {})))
    comparable = named["counts_as"].isin({row["dataset"] for row in rows}) & (named["status"] == "ok")
    ours: list[Row] = [
        {**record, **{column: json.loads(record[column]) for column in _CONFIGS}}
        for record in named[comparable].to_dict("records")
    ]
    return [_pair(row, ours) for row in rows]


def _pair(row: Row, records: Sequence[Row]) -> Pair:
    matching = [
        (record, interval, _differences(row, record))
        for record in records
        if _is_same_experiment(row, record) and (interval := _rate(row, record)) is not None
    ]
    if not matching:
        return Pair(row)
    fewest = min(len(differs) for _, _, differs in matching)
    best = [found for found in matching if len(found[2]) == fewest]
    if row["attack"] is None:  # all cells of a pipeline have one clean error: use one per setting and seed
        best = list({tuple(str(found[0][name]) for name in _PIPELINE): found for found in best}.values())
    differs = dict.fromkeys(text for _, _, texts in best for text in texts)
    if len(best) > 1:
        differs[f"mean of {len(best)} cells, interval over all of them"] = None
    rates, lows, highs = zip(*(interval for _, interval, _ in best), strict=True)
    n = min(int(record["n"]) for record, _, _ in best)
    return Pair(row, sum(rates) / len(best), min(lows), max(highs), n, tuple(differs))


def _is_same_experiment(row: Row, record: Row) -> bool:
    """Whether a record belongs to the experiment of a published value, whatever its other settings."""
    same_pipeline: bool = (
        row["dataset"] == record["counts_as"]
        and row["defense"] == record["defense"]
        and row["target"] in (None, record["target"])
        and _agree(row["target_config"], record["target_config"])
    )
    if not same_pipeline or row["attack"] is None:
        return same_pipeline
    return (
        row["attack"] == record["attack"]
        and row["threat"] == record["threat"]
        and _same_eps(row["eps"], record["eps"])
        and _agree(row["attack_config"], record["attack_config"])
    )


def _agree(theirs: Row, ours: Row) -> bool:
    return all(_covers(theirs.get(name), ours.get(name)) for name in _DECISIVE)


def _covers(theirs: Any, ours: Any) -> bool:
    """Whether our setting has all that is published; it may have more, because defaults are filled in."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        return all(_covers(value, ours.get(name)) for name, value in theirs.items())
    if isinstance(theirs, float | int) and isinstance(ours, float | int):
        return abs(theirs - ours) < _SAME_EPS
    return bool(theirs == ours)


def _same_eps(theirs: float | None, ours: float) -> bool:
    if theirs is None or math.isnan(ours):
        return theirs is None and math.isnan(ours)
    return abs(theirs - ours) < _SAME_EPS


def _rate(row: Row, record: Row) -> tuple[float, float, float] | None:
    """Our value of the same measure with its 95 % interval; None if the record has none."""
    n = int(record["n"])
    column = "error" if row["metric"] == "accuracy" else row["metric"]
    if row["attack"] is None:
        column = "clean_error" if column == "error" else ""
    if column == "error":
        return record["error"], record["error_low"], record["error_high"]
    rate = record.get(column)
    if rate is None or math.isnan(rate):
        return None
    if column == "attack_success":
        n = round(n * (1 - record["clean_error"]))  # among images that the pipeline gets right when clean
    return (rate, *wilson(round(rate * n), n))


def _differences(row: Row, record: Row) -> list[str]:
    """The settings in which our cell differs from the paper, as text."""
    ours = record["defense_config"]
    differs = [f"data: {record['dataset']}"] if record["counts_as"] != record["dataset"] else []
    if "preset" in ours and (ours["preset"] != "paper" or ours.get("preset_changed")):
        differs.append(f"preset {ours['preset']}" + (", changed" if ours.get("preset_changed") else ""))
    expected, source = row["defense_config"].get("source"), ours.get("source")
    if expected is not None and not _covers(expected, source):
        sources = (str(s["name"] if isinstance(s, Mapping) else s or "default") for s in (source, expected))
        differs.append("source {}, theirs {}".format(*sources))
    if row["attack"] is None:
        return differs
    if record["backend"] != "native":
        differs.append(f"run by {record['backend']}")
    for name, value in row["attack_config"].items():
        if name not in _DECISIVE and not _covers(value, record["attack_config"].get(name)):
            differs.append(f"{name} {record['attack_config'].get(name)}, theirs {value}")
    return differs + [flag for flag in str(record["flags"] or "").split() if any_doubt(flag)]


@dataclass(frozen=True)
class PaperTables:
    """Published and measured values of one paper: lines by table, with notes and sources."""

    paper: str
    tables: Mapping[str, Sequence[Mapping[str, str]]]
    notes: Sequence[str]
    sources: Sequence[str]


def _paper_tables(pairs: Sequence[Pair], name: str) -> PaperTables:
    notes: dict[str, int] = {}
    by_table = group_by(pairs, lambda pair: str(pair.published["table"]))
    tables = {table: [_line(pair, notes) for pair in members] for table, members in by_table.items()}
    sources = dict.fromkeys(str(pair.published["source"]) for pair in pairs)
    return PaperTables(name, tables, [f"[{n}] {note}." for note, n in notes.items()], list(sources))


def compare_with_papers(records: pd.DataFrame) -> list[PaperTables]:
    """The papers that a run has a matching cell of, each with the values that are matched."""
    matched = {name: [pair for pair in compare(records, name) if pair.ours is not None] for name in papers()}
    return [_paper_tables(pairs, name) for name, pairs in matched.items() if pairs]


def comparison(pairs: Sequence[Pair], name: str) -> str:
    """The comparison as Markdown: one table for each table of the paper that the run has a cell of."""
    tables = group_by(pairs, lambda pair: str(pair.published["table"]))
    empty = [table for table, members in tables.items() if all(pair.ours is None for pair in members)]
    shown = _paper_tables([pair for pair in pairs if str(pair.published["table"]) not in empty], name)
    parts = [
        f"# {name}: published and measured",
        "Errors in percent, or the measure named beside the attack. `inside`: whether the published value "
        "lies in our 95 % interval. –: no such cell in this run. Numbers in brackets: notes below.",
    ]
    for table, lines in shown.tables.items():
        heading = f"## Table {table}" if table[0].isdigit() else f"## {table.capitalize()}"
        frame = pd.DataFrame(lines).map(lambda text: text.replace("|", "\\|"))
        parts.append(f"{heading}\n\n{frame.to_markdown(index=False, disable_numparse=True)}")
    if empty:
        parts.append(f"This run has no cells of: {', '.join(empty)}.")
    sources = dict.fromkeys(f"- {pair.published['source']}" for pair in pairs)
    return "\n\n".join([*parts, *shown.notes, *sources]) + "\n"


def _line(pair: Pair, notes: dict[str, int]) -> dict[str, str]:
    row = pair.published
    note = row["note"]
    mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
    line = {
        "dataset": row["dataset"],
        "target": (row["target"] or "?") + " (adversarial)" * ("adversarial" in row["target_config"]),
        "defense": row["defense"],
        "attack": " ".join(_attack(row)),
        "published": f"{100 * pair.theirs:.1f}{mark}",
    }
    if pair.ours is None:
        return line | dict.fromkeys(("ours", "95 %", "difference", "inside", "n", "differs in"), "–")
    return line | {
        "ours": f"{100 * pair.ours:.1f}",
        "95 %": f"{100 * pair.low:.1f}–{100 * pair.high:.1f}",
        "difference": f"{100 * (pair.ours - pair.theirs):+.1f}",
        "inside": "yes" if pair.inside else "no",
        "n": str(pair.n),
        "differs in": "; ".join(pair.differs),
    }


def _attack(row: Row) -> Iterator[str]:
    yield row["attack"] or ("clean" if row["threat"] is None else "attacks")
    if row["eps"] is not None:
        yield f"ε {row['eps']:.3g}"
    if row["attack"] is not None:
        yield f"({row['threat']})"
    if "craft_on" in row["attack_config"]:
        yield f"made on {row['attack_config']['craft_on']['name']}"
    if row["metric"] not in ("error", "accuracy"):
        yield row["metric"].replace("_", " ")
