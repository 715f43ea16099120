"""Rendering the page of a report."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import re
import shlex
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from benchmark.files.writing import write_text
from benchmark.plan.threats import THREATS
from benchmark.report.charts import Chart, charts_of
from benchmark.report.images import Images, Strip, representative_outcomes
from benchmark.report.paper_comparison import compare_with_papers
from benchmark.report.row_labels import config_labels, labelled
from benchmark.report.table_data import Table, TableBlock, make_blocks
from benchmark.report.tables import flag_marks, format_cell
from benchmark.results.flags import any_doubt, is_unchecked
from benchmark.results.reading import read_board, read_image_errors, read_records, read_run_metadata

_FOLDER = Path(__file__).parent

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}

_OUTCOMES = ["key", "index", "label", "route", "clean", "target_adversarial", "adversarial"]


@dataclass(frozen=True)
class FlagText:
    """A section of `FLAGS.md`."""

    name: str
    kind: str
    raised_if: str
    why: str
    what_to_do: str


@dataclass(frozen=True)
class Section:
    """One data set and target: its charts with their numbers on the page, and its tables."""

    title: str
    charts: Sequence[tuple[int, Chart]]
    tables: Sequence[Table]


def render(run: Path, images: Images) -> str:
    """The page of a run.

    Raises:
        UserError: The folder holds no run.
    """
    records, metadata = read_records(run), read_run_metadata(run)
    tried = records[records["status"] != "skipped"]
    marks = flag_marks(records)
    board = _board(read_board(run), tried)
    raised = {flag for flags in (*records["flags"].dropna(), *board["flags"]) for flag in flags.split()}
    sections = _sections(make_blocks(records, read_image_errors(run)), board)
    specs = [dict(chart.spec) for section in sections for _, chart in section.charts]
    scripts = [_vega(), (_FOLDER / "page.js").read_text(encoding="utf-8")]
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(
        loader=PackageLoader("benchmark", "report"), undefined=StrictUndefined, **options
    )
    environment.filters["code"] = _code
    environment.tests["unchecked"] = is_unchecked
    environment.filters["cell"] = lambda cell: format_cell(cell, marks, intervals=True)
    return environment.get_template("page.html").render(
        name=metadata["name"],
        counts=records["status"].value_counts().to_dict(),
        threats=[threat for name, threat in THREATS.items() if (records["threat"] == name).any()],
        board=board.to_dict("records"),
        filters=[name for name in ("dataset", "target", "attacker", "ball") if board[name].nunique() > 1],
        sections=sections,
        specs=specs,
        cells=list(_cells(run, tried, images)),
        without_error=_cells_without_error(records),
        papers=compare_with_papers(records),
        flags=[flag for flag in read_flags() if flag.name in raised],
        unchecked=sorted(filter(is_unchecked, raised)),
        marks=marks,
        metadata=metadata,
        left_out=images.left_out,
        command=shlex.join(str(part) for part in metadata.get("command", [])),
        grid=json.dumps(metadata.get("grid"), indent=1, ensure_ascii=False, default=str),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        # for the content security policy of the page, so that no other script can run
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        best=lambda cell: isinstance(cell, tuple) and any(measurement.best for measurement in cell),
    )


def read_flags() -> list[FlagText]:
    """The flags as `FLAGS.md` explains them: one section per flag, in four bold-headed paragraphs."""
    text = (_FOLDER.parent / "FLAGS.md").read_text(encoding="utf-8")
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)  # a link becomes its text
    flags = []
    for name, _, body in (section.partition("\n") for section in text.split("\n## ")[1:]):
        kind, raised_if, *rest = re.split(r"\*\*(?:Raised if|Why\.|What to do\.)\*\*", body)
        kind = kind.replace("*", "").partition(".")[0].lower()
        mark = r"(\1) " if "\n2. " in raised_if else ""  # a single condition needs no number
        raised_if = re.sub(r"^(\d+)\. ", mark, raised_if, flags=re.MULTILINE)
        flags.append(FlagText(name, *(" ".join(part.split()) for part in (kind, raised_if, *rest))))
    return flags


def _board(board: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard with the labels of the records, so that a name means the same in both."""
    balls = zip(board["norm"], board["eps"], strict=True)
    board = board.assign(
        ball=[f"{_NORMS.get(norm, norm)} ≤ {eps:g}" for norm, eps in balls], flags=board["flags"].fillna("")
    )
    # A board without rows gets these columns, too.
    for column, name in (("column", "defense"), ("target", "target"), ("attacker", "threat")):
        labels = config_labels(records, name, f"{name}_config")
        pairs = zip(board[name], board[f"{name}_config"], strict=True)
        board[column] = [labels.get(pair, pair[0]) for pair in pairs]
    return board


def _sections(blocks: Iterable[TableBlock], board: pd.DataFrame) -> list[Section]:
    sections, number = [], 0
    for block in blocks:
        rows = board[(board["dataset"] == block.dataset) & (board["target"] == block.target)]
        charts = list(enumerate(charts_of(block, rows), number))
        number += len(charts)
        sections.append(Section(block.title, charts, block.tables))
    return sections


def _cells(run: Path, records: pd.DataFrame, images: Images) -> Iterable[dict[str, Any]]:
    """Every cell that was tried, with the pictures of a few of its images."""
    path = run / "outcomes.parquet"
    outcomes = representative_outcomes(pd.read_parquet(path, columns=_OUTCOMES)) if path.is_file() else {}
    if records.empty:
        return
    for row in labelled(records.fillna({"flags": ""})).to_dict("records"):
        strip, error = Strip(note="No images: the cell has no outcomes."), row["status"]
        if row["status"] == "ok":
            error = f"{'≥ ' if any_doubt(row['flags']) else ''}{100 * row['error']:.1f} %"
        if row["key"] in outcomes:
            strip = images.strip(row["key"], outcomes[row["key"]])
        yield {"row": row, "error": error, "strip": strip}


def _cells_without_error(records: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Cells without an error rate: the number of each kind, and the reason."""
    columns = ["status", "attack", "defense", "threat", "reason"]
    rows = records[records["status"] != "ok"].fillna({"reason": ""})
    counted: pd.DataFrame = rows.groupby(columns, sort=False).size().reset_index(name="count")
    return counted.to_dict("records")


def _code(text: str) -> Markup:
    """Text as HTML; backticks become code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script; cached, because bundling takes seconds."""
    import vl_convert

    version = importlib.metadata.version("vl-convert-python")
    cached = Path.home() / ".cache" / "bench" / "javascript" / f"vega-embed-{version}.js"
    if cached.is_file():
        return cached.read_text(encoding="utf-8")
    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub demands a snippet
    script = script.replace("</script", "<\\/script")
    with suppress(OSError):  # without a writable home the bundling is repeated
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_text(cached, script)
    return script
