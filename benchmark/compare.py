"""A paper's published figures beside ours, cell by cell. The figures are in `papers/`, with their sources."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UserError, nearest
from benchmark.evidence import grouped
from benchmark.flags import FLAGS, is_doubt
from benchmark.stats import wilson

PAPERS = Path(__file__).parent / "papers"

_SAME_EPS = 1e-4
_PERCENT = 100
_CONFIGS = ("target_config", "defense_config", "attack_config")
_TELLING = ("adversarial", "craft_on")
"""Parameters that make another experiment of it: where they differ, figures are not set beside each other."""


@dataclass(frozen=True)
class Pair:
    """A published figure as a rate, and ours with its interval where the run has a cell like it."""

    published: Mapping[str, Any]
    ours: float | None = None
    low: float = math.nan
    high: float = math.nan
    n: int | None = None
    differs: tuple[str, ...] = ()

    @property
    def theirs(self) -> float:
        """The published figure as a fraction: the error where it is one."""
        error = self.published["error"]
        return float(self.published["value"]) / _PERCENT if error is None else float(error)

    @property
    def inside(self) -> bool | None:
        """Whether the published figure lies in our 95 % interval; None where there is nothing of ours."""
        return None if self.ours is None else self.low <= self.theirs <= self.high


def papers() -> list[str]:
    """Names of the papers whose figures are known."""
    return sorted(path.stem for path in PAPERS.glob("*.csv"))


def published(name: str) -> list[dict[str, Any]]:
    """The figures of a paper: a row each, as `papers/README.md` says, with what is empty as None.

    Raises:
        UserError: There is no such paper; gives the nearest names.
    """
    if name not in papers():
        raise UserError(f"no published figures of {name!r}", hint=nearest(name, papers()))
    text = dict.fromkeys(("table", "value"), str)
    frame = pd.read_csv(PAPERS / f"{name}.csv", dtype=text).astype(object)
    rows: list[dict[str, Any]] = frame.where(frame.notna(), None).to_dict("records")
    for row in rows:
        row |= {column: json.loads(row[column] or "{}") for column in _CONFIGS}
    return rows


def compare(records: pd.DataFrame, name: str, stand_ins: Mapping[str, str] | None = None) -> list[Pair]:
    """Each published figure of a paper with ours.

    Args:
        records: The records of a run, as `records.csv` holds them.
        name: The paper.
        stand_ins: Data sets of ours, each with the one of the paper that it is a copy of.

    Raises:
        UserError: There is no such paper.
    """
    rows = published(name)
    plain = records["dataset"].astype(str).str.split(" ").str[0]
    known = records.assign(counts_as=plain.replace(dict(stand_ins or {})))
    comparable = known["counts_as"].isin({row["dataset"] for row in rows}) & (known["status"] == "ok")
    ours = [_read(row) for row in known[comparable].to_dict("records")]
    return [_paired(row, ours) for row in rows]


def _read(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A record with its configurations as mappings."""
    return {**row, **{column: json.loads(row[column]) for column in _CONFIGS}}


def _paired(row: Mapping[str, Any], records: Sequence[dict[str, Any]]) -> Pair:
    alike = [record for record in records if _alike(row, record)]
    figures = [(record, *figure) for record in alike if (figure := _figure(row, record)) is not None]
    if not figures:
        return Pair(row)
    fewest = min(len(_differences(row, record)) for record, *_ in figures)
    best = [found for found in figures if len(_differences(row, found[0])) == fewest]
    if row["attack"] is None:  # every cell of a pipeline has its clean error: each setting and seed once
        best = list({tuple(str(b[0][c]) for c in _PIPELINE): b for b in best}.values())
    differs = dict.fromkeys(text for record, *_ in best for text in _differences(row, record))
    if len(best) > 1:
        differs[f"mean of {len(best)} cells, interval over all of them"] = None
    return Pair(
        row,
        ours=sum(rate for _, rate, _, _ in best) / len(best),
        low=min(low for _, _, low, _ in best),
        high=max(high for _, _, _, high in best),
        n=min(int(record["n"]) for record, *_ in best),
        differs=tuple(differs),
    )


_PIPELINE = ("dataset", "target", "target_config", "defense_config", "target_seed", "defense_seed")


def _alike(row: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a record is of the experiment that the figure is of, whatever its settings."""
    if row["dataset"] != record["counts_as"] or row["defense"] != record["defense"]:
        return False
    if row["target"] not in (None, record["target"]):
        return False
    if not _same_telling(row["target_config"], record["target_config"]):
        return False
    if row["attack"] is None:
        return True
    return (
        row["attack"] == record["attack"]
        and row["threat"] == record["threat"]
        and _same_eps(row["eps"], record["eps"])
        and _same_telling(row["attack_config"], record["attack_config"])
    )


def _same_telling(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    return all(_covers(theirs.get(name), ours.get(name)) for name in _TELLING)


def _covers(theirs: Any, ours: Any) -> bool:
    """Whether ours has all that is published of theirs; it may say more, as defaults are filled in."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        return all(_covers(value, ours.get(name)) for name, value in theirs.items())
    if isinstance(theirs, float | int) and isinstance(ours, float | int):
        return abs(theirs - ours) < _SAME_EPS
    return bool(theirs == ours)


def _same_eps(theirs: float | None, ours: float) -> bool:
    if theirs is None or math.isnan(ours):
        return theirs is None and math.isnan(ours)
    return abs(theirs - ours) < _SAME_EPS


def _figure(row: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Our figure of the same measure with its 95 % interval; None where the record has none."""
    n = int(record["n"])
    column = {"error": "error", "accuracy": "error"}.get(row["metric"], row["metric"])
    if row["attack"] is None:
        column = {"error": "clean_error"}.get(column, "")
    if column == "error":
        return record["error"], record["error_low"], record["error_high"]
    rate = record.get(column)
    if rate is None or math.isnan(rate):
        return None
    if column == "attack_success":
        n = round(n * (1 - record["clean_error"]))  # among what the pipeline gets right when clean
    return (rate, *wilson(round(rate * n), n))


def _differences(row: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """In what our setting is another than theirs, in words."""
    ours = record["defense_config"]
    found = []
    if record["counts_as"] != record["dataset"]:
        found.append(f"data: {record['dataset']}")
    if "preset" in ours and (ours["preset"] != "paper" or ours.get("preset_changed")):
        found.append(f"preset {ours['preset']}" + (", changed" if ours.get("preset_changed") else ""))
    expected, source = row["defense_config"].get("source"), ours.get("source")
    if expected is not None and not _covers(expected, source):
        found.append(f"source {_named(source)}, theirs {_named(expected)}")
    if row["attack"] is None:
        return found
    if record["backend"] != "native":
        found.append(f"run by {record['backend']}")
    for name, value in row["attack_config"].items():
        if name not in _TELLING and not _covers(value, record["attack_config"].get(name)):
            found.append(f"{name} {record['attack_config'].get(name)}, theirs {value}")
    found += [flag for flag in str(record["flags"] or "").split() if flag in FLAGS and is_doubt(flag)]
    return found


def _named(source: Any) -> str:
    return str(source["name"] if isinstance(source, Mapping) else source or "default")


def comparison(pairs: Sequence[Pair], name: str) -> str:
    """The figures side by side as Markdown: one table for each of the paper's of which we have any cell."""
    tables = _by_table(pairs)
    notes: dict[str, int] = {}
    blank = [table for table, members in tables.items() if all(pair.ours is None for pair in members)]
    parts = [
        f"# {name}: published and measured",
        "Errors in percent, or the measure named beside the attack. `inside`: whether the published figure "
        "lies in our 95 % interval. –: no such cell in this run. Numbers in brackets: notes below.",
    ]
    for table, members in tables.items():
        if table not in blank:
            heading = f"## Table {table}" if table[0].isdigit() else f"## {table.capitalize()}"
            shown = pd.DataFrame([_line(pair, notes) for pair in members])
            shown = shown.map(lambda text: text.replace("|", "\\|"))
            parts.append(f"{heading}\n\n{shown.to_markdown(index=False, disable_numparse=True)}")
    if blank:
        parts.append(f"Nothing of this run is in: {', '.join(blank)}.")
    parts += [*_told(notes), *(f"- {source}" for source in _sources(pairs))]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Beside:
    """What a run has of a paper: by table the lines with a figure of ours, and what is to be said of them."""

    paper: str
    tables: Mapping[str, Sequence[Mapping[str, str]]]
    notes: Sequence[str]
    sources: Sequence[str]


def beside(records: pd.DataFrame) -> list[Beside]:
    """The papers of which a run has any figure, each with the lines that have one."""
    found = []
    for name in papers():
        pairs = [pair for pair in compare(records, name) if pair.ours is not None]
        notes: dict[str, int] = {}
        tables = {
            table: [_line(pair, notes) for pair in members] for table, members in _by_table(pairs).items()
        }
        if tables:
            found.append(Beside(name, tables, _told(notes), _sources(pairs)))
    return found


def _by_table(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    groups = grouped(pairs, lambda pair: str(pair.published["table"]))
    return {str(members[0].published["table"]): members for members in groups}


def _told(notes: Mapping[str, int]) -> list[str]:
    return [f"[{number}] {note}." for note, number in notes.items()]


def _sources(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(str(pair.published["source"]) for pair in pairs))


def _line(pair: Pair, notes: dict[str, int]) -> dict[str, str]:
    row = pair.published
    note = row["note"]
    mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
    line = {
        "dataset": row["dataset"],
        "target": (row["target"] or "?")
        + (" (adversarial)" if "adversarial" in row["target_config"] else ""),
        "defense": row["defense"],
        "attack": " ".join(_attack(row)),
        "published": f"{_PERCENT * pair.theirs:.1f}{mark}",
    }
    if pair.ours is None:
        return line | dict.fromkeys(("ours", "95 %", "difference", "inside", "n", "differs in"), "–")
    return line | {
        "ours": f"{_PERCENT * pair.ours:.1f}",
        "95 %": f"{_PERCENT * pair.low:.1f}–{_PERCENT * pair.high:.1f}",
        "difference": f"{_PERCENT * (pair.ours - pair.theirs):+.1f}",
        "inside": "yes" if pair.inside else "no",
        "n": str(pair.n),
        "differs in": "; ".join(pair.differs),
    }


def _attack(row: Mapping[str, Any]) -> Iterator[str]:
    yield row["attack"] or ("clean" if row["threat"] is None else "attacks")
    if row["eps"] is not None:
        yield f"ε {row['eps']:.3g}"
    if row["attack"] is not None:
        yield f"({row['threat']})"
    if "craft_on" in row["attack_config"]:
        yield f"made on {row['attack_config']['craft_on']['name']}"
    if row["metric"] not in ("error", "accuracy"):
        yield row["metric"].replace("_", " ")
