"""What stands on the page of a report, and the page itself."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from benchmark.compare import beside
from benchmark.figures import Block, Table, across, make_blocks
from benchmark.flags import FLAGS, is_doubt, is_unchecked
from benchmark.labels import labelled, names
from benchmark.output import write_text
from benchmark.report.charts import Chart, charts_of
from benchmark.report.images import Images, Strip, telling_rows
from benchmark.runs import read_about, read_board, read_outcomes, read_records
from benchmark.tables import flag_marks, shown
from benchmark.threats import THREATS

_FOLDER = Path(__file__).parent

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}

_OUTCOMES = ["key", "index", "label", "route", "clean", "target_adversarial", "adversarial"]


@dataclass(frozen=True)
class FlagText:
    """A flag as `FLAGS.md` explains it."""

    name: str
    kind: str
    raised_if: str
    why: str
    what_to_do: str


@dataclass(frozen=True)
class CellText:
    """A cell as the page lists it, with its pictures."""

    row: Mapping[Any, Any]
    error: str
    strip: Strip


@dataclass(frozen=True)
class Section:
    """One data set and target: its charts by number on the page, and its tables."""

    title: str
    charts: Sequence[tuple[int, Chart]]
    tables: Sequence[Table]


def render(run: Path, images: Images) -> str:
    """The page of a run.

    Raises:
        UserError: The folder holds no run.
    """
    records, about = read_records(run), read_about(run)
    tried = records[records["status"] != "skipped"]
    marks = flag_marks(records)
    board = _board(read_board(run), tried)
    sections = _sections(make_blocks(records, read_outcomes(run)), board)
    specs = [dict(chart.spec) for section in sections for _, chart in section.charts]
    scripts = [_vega(), (_FOLDER / "page.js").read_text(encoding="utf-8")]
    environment = Environment(
        loader=PackageLoader("benchmark", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.tests["unchecked"] = is_unchecked
    environment.filters["figures"] = lambda cell: shown(cell, marks, intervals=True)
    return environment.get_template("page.html").render(
        name=about["name"],
        counts=records["status"].value_counts().to_dict(),
        threats=[t for n, t in THREATS.items() if (records["threat"] == n).any()],
        board=board.to_dict("records"),
        filters=[name for name in ("dataset", "target", "attacker", "ball") if _several(board, name)],
        sections=sections,
        specs=specs,
        cells=list(_cells(run, tried, images)),
        troubles=_troubles(records),
        papers=beside(records),
        flags=[flag for flag in read_flags() if flag.name in _raised(records, board)],
        unchecked=sorted(filter(is_unchecked, _raised(records, board))),
        marks=marks,
        about=about,
        left_out=images.left_out,
        command=_command(about),
        grid=json.dumps(about.get("grid"), indent=1, ensure_ascii=False, default=str),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
        across=across,
        best=_best,
    )


def read_flags() -> list[FlagText]:
    """The flags, as `FLAGS.md` explains them to people."""
    text = (_FOLDER.parent / "FLAGS.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [FlagText(name.strip("`"), *rest) for name, *rest in rows if len(rest) == 4]


def _board(board: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard with the labels that the records have, so that one name means one thing."""
    shown: pd.DataFrame = board.copy()
    # A board without rows gets its columns too.
    for column, name in (("column", "defense"), ("target", "target"), ("attacker", "threat")):
        known = names(records, name, f"{name}_config")
        pairs = zip(board[name], board[f"{name}_config"], strict=True)
        shown[column] = [known.get(pair, pair[0]) for pair in pairs]
    shown["ball"] = [
        f"{_NORMS.get(norm, norm)} ≤ {eps:g}" for norm, eps in zip(board["norm"], board["eps"], strict=True)
    ]
    shown["flags"] = board["flags"].fillna("")
    return shown


def _several(board: pd.DataFrame, name: str) -> bool:
    return bool(board[name].nunique() > 1)


def _sections(blocks: Iterable[Block], board: pd.DataFrame) -> list[Section]:
    sections, number = [], 0
    for block in blocks:
        about = board[(board["dataset"] == block.dataset) & (board["target"] == block.target)]
        charts = []
        for chart in charts_of(block, about):
            charts.append((number, chart))
            number += 1
        sections.append(Section(block.title, charts, block.tables))
    return sections


def _cells(run: Path, records: pd.DataFrame, images: Images) -> Iterable[CellText]:
    """Every cell that was tried, with the pictures of a few of its images."""
    path = run / "outcomes.parquet"
    told = telling_rows(pd.read_parquet(path, columns=_OUTCOMES)) if path.is_file() else {}
    if records.empty:
        return
    rows = labelled(records).to_dict("records")
    for row in rows:
        strip, error = Strip(note="No images: the cell has no outcomes."), row["status"]
        if row["status"] == "ok":
            doubted = any(flag in FLAGS and is_doubt(flag) for flag in str(row["flags"]).split())
            error = f"{'≥ ' if doubted else ''}{100 * row['error']:.1f} %"
        if row["key"] in told:
            strip = images.strip(row["key"], told[row["key"]])
        yield CellText(row | {"flags": row["flags"] if isinstance(row["flags"], str) else ""}, error, strip)


def _troubles(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Cells without a figure: how many of each kind, and why."""
    bad = records[records["status"] != "ok"]
    by = ["status", "attack", "defense", "threat", "reason"]
    counted = bad.fillna({"reason": ""}).groupby(by, sort=False).size()
    return [dict(zip(by, key, strict=True)) | {"count": count} for key, count in counted.items()]


def _raised(records: pd.DataFrame, board: pd.DataFrame) -> set[str]:
    texts = [*records["flags"].dropna(), *board["flags"].dropna()]
    return {flag for text in texts for flag in text.split()}


def _command(about: Mapping[str, Any]) -> str:
    return shlex.join(str(part) for part in about.get("command", []))


def _best(cell: Any) -> bool:
    return isinstance(cell, tuple) and any(figure.best for figure in cell)


def _code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _hash(script: str) -> str:
    """What the page's security policy knows a script by: no other script runs in it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script; kept, as putting it together takes seconds."""
    import vl_convert

    version = importlib.metadata.version("vl-convert-python")
    kept = Path.home() / ".cache" / "bench" / "javascript" / f"vega-embed-{version}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub demands a snippet
    script = script.replace("</script", "<\\/script")
    with suppress(OSError):  # a home that cannot be written only costs the seconds
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, script)
    return script
