"""The tables of a run as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import string
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UserError, nearest
from benchmark.files.tables import escape_formula
from benchmark.plan.threats import THREATS
from benchmark.report.table_data import KINDS, Measurement, Table, make_blocks
from benchmark.results.flags import FLAGS, is_doubt
from benchmark.results.reading import read_image_errors, read_records, read_run_metadata
from benchmark.results.significance import ImageErrors

_MARKS = "†‡§¶‖※"

_DECIMALS = {"psnr": 1, "ssim": 3, "purify_ms": 3, "distance": 3}
"""Decimals of values that are not rates; rates are in percent with one decimal."""

_SIGNED = ("gap", "added")
"""Differences, which are shown with their sign."""

CSV_COLUMNS = (
    *("dataset", "target", "n", "table", "attacker", "row", "column", "measure"),
    *("value", "low", "high", "best", "lower_bound", "flags", "status"),
)

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"ε": r"$\varepsilon$", "−": "$-$", "≥": r"$\geq$", "<": r"$<$", ">": r"$>$", "∞": r"$\infty$"}
)


def markdown(
    records: pd.DataFrame,
    title: str,
    image_errors: Mapping[str, ImageErrors] | None = None,
    *,
    kinds: Collection[str] = tuple(KINDS),
    intervals: bool = False,
) -> str:
    """The tables of a run as Markdown, rates in percent.

    `image_errors` decides which values are bold: those that are significantly the lowest of their row.
    """
    marks = flag_marks(records)
    parts = [f"# {_escape_markdown(title)}", "\n".join(_legend(records, marks, image_errors, intervals))]

    def cell(measurements: Any) -> str:
        return format_cell(measurements, marks, intervals=intervals, bold="**{}**".format)

    for block in make_blocks(records, image_errors, kinds):
        parts.append(f"## {_escape_markdown(block.title)}")
        for table in block.tables:
            frame, _ = _as_text(table, cell, _escape_markdown)
            text = frame.to_markdown(index=False, disable_numparse=True, stralign="right")
            parts.append(f"### {_escape_markdown(table.title)}\n\n{text}")
    parts += (f"## {heading}\n\n" + "\n".join(lines) for heading, lines in _cells_without_error(records))
    return "\n\n".join(parts) + "\n"


def latex(
    records: pd.DataFrame,
    title: str,
    image_errors: Mapping[str, ImageErrors] | None = None,
    *,
    kinds: Collection[str] = tuple(KINDS),
    intervals: bool = True,
) -> str:
    r"""The tables of a run as LaTeX, for `\usepackage{booktabs}`; arguments as in `markdown`."""
    letters = dict(zip(flag_marks(records), string.ascii_letters, strict=False))
    marks = {name: rf"\textsuperscript{{{letter}}}" for name, letter in letters.items()}

    def cell(measurements: Any) -> str:
        text = format_cell(measurements, {}, intervals=intervals, bold=r"\textbf{{{}}}".format)
        text = text.replace("-", "$-$").replace("≥", r"$\geq$").replace("∞", r"$\infty$").replace("–", "--")
        flags = measurements[0].flags if isinstance(measurements, tuple) else ()
        return text + "".join(marks[flag] for flag in flags if flag in marks)

    parts = [rf"% {title}".replace("\n", " "), r"% needs \usepackage{booktabs}"]
    for block in make_blocks(records, image_errors, kinds):
        for table in block.tables:
            frame, levels = _as_text(table, cell, _escape_latex)
            columns = "l" * levels + "r" * (len(frame.columns) - levels)
            caption = _escape_latex(f"{block.title}. {table.title}.")
            text = frame.to_latex(index=False, escape=False, column_format=columns, caption=caption)
            parts.append(text.strip())
    legend = _legend(records, letters, image_errors, intervals)
    parts += [_escape_latex(re.sub(r"^- |\*\*|`", "", line)) for line in legend]
    return "\n\n".join(parts) + "\n"


def tidy_csv(
    records: pd.DataFrame,
    image_errors: Mapping[str, ImageErrors] | None = None,
    *,
    kinds: Collection[str] = tuple(KINDS),
) -> str:
    """One line for each value of the tables, rates as fractions; the columns are `CSV_COLUMNS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for block in make_blocks(records, image_errors, kinds):
        for table in block.tables:
            for label, column, measurement in table.measurements():
                fields = vars(measurement) | {"flags": " ".join(measurement.flags), "column": column}
                for name in ("value", "low", "high"):
                    fields[name] = "" if math.isnan(fields[name]) else round(fields[name], 9)
                fields |= {"dataset": block.dataset, "target": block.target, "n": block.n}
                fields |= {"table": table.kind, "attacker": table.attacker}
                fields["row"] = " | ".join(label) if isinstance(label, tuple) else str(label)
                writer.writerow({name: escape_formula(value) for name, value in fields.items()})
    return text.getvalue()


def format_cell(
    measurements: Any, marks: Mapping[str, str], *, intervals: bool, bold: Callable[[str], str] = "{}".format
) -> str:
    """A cell of a table as text: `≥ 34.0 [25.5, 43.7]†`."""

    def text(measurement: Measurement) -> str:
        if measurement.status != "ok":
            return measurement.status
        value = _digits(measurement, measurement.value)
        if math.isnan(measurement.value):
            return value
        value = bold(value) if measurement.best else value
        if intervals and not math.isnan(measurement.low):
            value += f" [{_digits(measurement, measurement.low)}, {_digits(measurement, measurement.high)}]"
        bound = "≥ " if measurement.lower_bound else ""
        return bound + value + "".join(marks[flag] for flag in measurement.flags if flag in marks)

    return " / ".join(map(text, measurements)) if isinstance(measurements, tuple) else "–"


def _digits(measurement: Measurement, value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if measurement.measure in _DECIMALS:
        return f"{value:.{_DECIMALS[measurement.measure]}f}"
    return f"{100 * value:+.1f}" if measurement.measure in _SIGNED else f"{100 * value:.1f}"


def flag_marks(records: pd.DataFrame) -> dict[str, str]:
    """One mark for each flag that was raised, the same in all tables of a file."""
    raised = {flag for flags in records["flags"].fillna("") for flag in flags.split()}
    marks = (mark * times for times in itertools.count(1) for mark in _MARKS)
    return dict(zip((name for name in FLAGS if name in raised), marks, strict=False))


def _legend(
    records: pd.DataFrame,
    marks: Mapping[str, str],
    image_errors: Mapping[str, ImageErrors] | None,
    intervals: bool,
) -> list[str]:
    where = "; 95 % Wilson intervals are in `records.csv`"
    if intervals:
        where = " with 95 % Wilson intervals; over several seeds, from the lowest bound to the highest"
    lines = [f"Errors in percent{where}."]
    used = [threat for name, threat in THREATS.items() if (records["threat"] == name).any()]
    lines += [f"- **{threat.name}**: the attacker {threat.meaning}." for threat in used]
    lines += [f"- {mark} {name}: {FLAGS[name].raised_if}." for name, mark in marks.items()]
    if any(is_doubt(name) for name in marks):
        lines.append("- ≥: a doubt. The attack proves only this lower bound, and robustness is not claimed.")
    if image_errors:
        test = "(exact McNemar test on the same images, one-sided 5 %, Holm-corrected)"
        lines.append(
            f"- **bold**: significantly lower than every other value of its row, no defense included {test}."
        )
    else:
        lines.append("- nothing is bold: there is no `outcomes.parquet` to compare defenses image by image.")
    return lines


def _cells_without_error(records: pd.DataFrame) -> Iterable[tuple[str, list[str]]]:
    for status, heading in (
        ("failed", "Failed cells: no error rate"),
        ("budget", "Cells that exceeded the budget: no error rate"),
        ("skipped", "Skipped cells"),
    ):
        rows = records[records["status"] == status]
        if not rows.empty:
            counted = rows.groupby(["attack", "defense", "threat", "reason"], sort=False).size()
            yield heading, [f"- {d}, {a}, {t} ({count}): {r}" for (a, d, t, r), count in counted.items()]


def _as_text(
    table: Table, cell: Callable[[Any], str], escape: Callable[[Any], str]
) -> tuple[pd.DataFrame, int]:
    """A table as text with its index as its first columns, and the number of these."""
    frame, index_names = table.oriented()
    frame = frame.map(cell).rename(index=escape, columns=escape)
    frame.index.names = list(map(escape, index_names))
    return frame.reset_index(), len(index_names)


def _escape_markdown(name: Any) -> str:
    """A name that neither ends a cell of a Markdown table nor begins a tag."""
    return re.sub(r"([|<])", r"\\\1", str(name))


def _escape_latex(text: Any) -> str:
    return str(text).translate(_LATEX)


def read_tables(
    out: Path, form: str = "markdown", kinds: Collection[str] = tuple(KINDS), intervals: bool | None = None
) -> str:
    """Make the tables of the run in a folder, as `markdown`, `latex` or `csv`.

    By default only LaTeX shows intervals; CSV always has them.

    Raises:
        UserError: The folder holds no run, or the format or kind is unknown.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"no kind of table {kind!r}", hint=nearest(kind, KINDS))
    records, image_errors, title = read_records(out), read_image_errors(out), read_run_metadata(out)["name"]
    if form == "csv":
        return tidy_csv(records, image_errors, kinds=kinds)
    if form not in ("markdown", "latex"):
        raise UserError(f"no format {form!r}", hint=nearest(form, ["markdown", "latex", "csv"]))
    intervals = form == "latex" if intervals is None else intervals
    write = markdown if form == "markdown" else latex
    return write(records, title, image_errors, kinds=kinds, intervals=intervals)
