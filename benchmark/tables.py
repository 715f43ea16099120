"""The tables that people read, set as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import string
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from benchmark.figures import KINDS, Block, Figure, across, make_blocks
from benchmark.flags import FLAGS, is_doubt
from benchmark.output import inert
from benchmark.paired import Judged
from benchmark.threats import THREATS

_MARKS = "†‡§¶‖※"

_BEST = (
    "significantly lower than every other figure of its row, no defense included "
    "(exact McNemar test on the same images, one-sided 5 %, Holm-corrected)"
)

_DECIMALS = {"psnr": 1, "ssim": 3, "purify_ms": 3, "distance": 3}
"""Digits after the point of what is not a rate; rates are shown in percent with one."""

_SIGNED = ("gap", "added")
"""Differences: shown with their sign."""

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
    judged: Mapping[str, Judged] | None = None,
    *,
    kinds: Collection[str] = tuple(KINDS),
    intervals: bool = False,
) -> str:
    """Tables of a run as Markdown; rates in percent.

    Args:
        records: The records, as `records.csv` holds them.
        title: The heading.
        judged: By key of a cell, which images were wrong; without it nothing is bold.
        kinds: Kinds of tables, of `benchmark.figures.KINDS`.
        intervals: Whether each rate carries its interval.
    """
    marks = flag_marks(records)
    parts = [f"# {_escaped(title)}", "\n".join(_legend(records, marks, judged, intervals))]

    def cell(figures: Any) -> str:
        return shown(figures, marks, intervals=intervals, bold="**{}**".format)

    for block in make_blocks(records, judged, kinds):
        parts.append(f"## {_escaped(block.title)}")
        for table in block.tables:
            frame, down = across(table)
            frame = frame.map(cell).rename(columns=_escaped)
            text = _with_rows(frame.rename(index=_escaped), down).to_markdown(
                index=False, disable_numparse=True, stralign="right"
            )
            parts.append(f"### {_escaped(table.title)}\n\n{text}")
    parts += (f"## {heading}\n\n" + "\n".join(lines) for heading, lines in _troubles(records))
    return "\n\n".join(parts) + "\n"


def latex(
    records: pd.DataFrame,
    title: str,
    judged: Mapping[str, Judged] | None = None,
    *,
    kinds: Collection[str] = tuple(KINDS),
    intervals: bool = True,
) -> str:
    r"""Tables of a run as LaTeX, to be included after `\usepackage{booktabs}`; arguments as of `markdown`."""
    marks = {name: string.ascii_letters[i] for i, name in enumerate(flag_marks(records))}
    raised = {name: rf"\textsuperscript{{{mark}}}" for name, mark in marks.items()}

    def cell(figures: Any) -> str:
        text = shown(figures, {}, intervals=intervals, bold=r"\textbf{{{}}}".format)
        text = text.replace("-", "$-$").replace("≥", r"$\geq$").replace("∞", r"$\infty$").replace("–", "--")
        flags = figures[0].flags if isinstance(figures, tuple) else ()
        return text + "".join(raised[flag] for flag in flags if flag in raised)

    parts = [rf"% {title}".replace("\n", " "), r"% needs \usepackage{booktabs}"]
    notes = [_tex(re.sub(r"^- |\*\*|`", "", line)) for line in _legend(records, marks, judged, intervals)]
    for block in make_blocks(records, judged, kinds):
        for table in block.tables:
            frame, down = across(table)
            frame = _with_rows(
                frame.map(cell).rename(index=_tex, columns=_tex), [_tex(name) for name in down]
            )
            columns = "l" * len(down) + "r" * (len(frame.columns) - len(down))
            caption = _tex(f"{block.title}. {table.title}.")
            parts.append(
                frame.to_latex(index=False, escape=False, column_format=columns, caption=caption).strip()
            )
    return "\n\n".join([*parts, *notes]) + "\n"


def tidy_csv(
    records: pd.DataFrame,
    judged: Mapping[str, Judged] | None = None,
    *,
    kinds: Collection[str] = tuple(KINDS),
) -> str:
    """One line for each figure of the tables, rates as fractions; columns are `CSV_COLUMNS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for block in make_blocks(records, judged, kinds):
        writer.writerows(_lines(block))
    return text.getvalue()


def _lines(block: Block) -> Iterable[dict[str, Any]]:
    about = {"dataset": block.dataset, "target": block.target, "n": block.n}
    for table in block.tables:
        for label, row in table.frame.iterrows():
            place = " | ".join(label) if isinstance(label, tuple) else str(label)
            for column, cell in row.items():
                for figure in cell if isinstance(cell, tuple) else ():
                    line = about | {"table": table.kind, "attacker": table.attacker, "row": place}
                    line |= {"column": column, "measure": figure.measure, "best": figure.best}
                    line |= {name: _number(getattr(figure, name)) for name in ("value", "low", "high")}
                    line |= {"lower_bound": figure.lower_bound, "flags": " ".join(figure.flags)}
                    line["status"] = figure.status
                    yield {name: inert(value) for name, value in line.items()}


def _number(value: float) -> str | float:
    return "" if math.isnan(value) else round(value, 9)


def shown(
    figures: Any,
    marks: Mapping[str, str],
    *,
    intervals: bool,
    bold: Callable[[str], str] = "{}".format,
) -> str:
    """A cell of a table as text: `≥ 34.0 [25.5, 43.7]†`."""
    if not isinstance(figures, tuple):
        return "–"
    return " / ".join(_figure(figure, marks, intervals, bold) for figure in figures)


def _figure(figure: Figure, marks: Mapping[str, str], intervals: bool, bold: Callable[[str], str]) -> str:
    if figure.status != "ok":
        return figure.status
    text = _digits(figure, figure.value)
    if math.isnan(figure.value):
        return text
    text = bold(text) if figure.best else text
    if intervals and not math.isnan(figure.low):
        text += f" [{_digits(figure, figure.low)}, {_digits(figure, figure.high)}]"
    bound = "≥ " if figure.lower_bound else ""
    return bound + text + "".join(marks[flag] for flag in figure.flags if flag in marks)


def _digits(figure: Figure, value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if figure.measure in _DECIMALS:
        return f"{value:.{_DECIMALS[figure.measure]}f}"
    return f"{100 * value:+.1f}" if figure.measure in _SIGNED else f"{100 * value:.1f}"


def flag_marks(records: pd.DataFrame) -> dict[str, str]:
    """The mark of every flag that was raised: one for the whole file, as its legend explains them once."""
    raised = {flag for flags in records["flags"].fillna("") for flag in flags.split()}
    marks = (mark * times for times in itertools.count(1) for mark in _MARKS)
    return dict(zip((name for name in FLAGS if name in raised), marks, strict=False))


def _legend(
    records: pd.DataFrame, marks: Mapping[str, str], judged: Mapping[str, Judged] | None, intervals: bool
) -> list[str]:
    if intervals:
        seeds = "over several seeds, from the lowest bound to the highest"
        lines = [f"Errors in percent with 95 % Wilson intervals; {seeds}."]
    else:
        lines = ["Errors in percent; 95 % Wilson intervals are in `records.csv`."]
    lines += [
        f"- **{t.name}**: the attacker {t.meaning}."
        for n, t in THREATS.items()
        if (records["threat"] == n).any()
    ]
    lines += [f"- {mark} {name}: {FLAGS[name].raised_if}." for name, mark in marks.items()]
    if any(is_doubt(name) for name in marks):
        lines.append("- ≥: a doubt; the attack proves no more than this, and robustness is not claimed.")
    if judged:
        lines.append(f"- **bold**: {_BEST}.")
    else:
        lines.append("- nothing is bold: there is no `outcomes.parquet` to compare defenses image by image.")
    return lines


def _troubles(records: pd.DataFrame) -> Iterable[tuple[str, list[str]]]:
    headings = {
        "failed": "Failed cells: no error rate",
        "budget": "Cells that ran into the budget: no error rate",
        "skipped": "Skipped cells",
    }
    for status, heading in headings.items():
        rows = records[records["status"] == status]
        if not rows.empty:
            counted = rows.groupby(["attack", "defense", "threat", "reason"], sort=False).size()
            yield heading, [f"- {d}, {a}, {t} ({count}): {r}" for (a, d, t, r), count in counted.items()]


def _with_rows(frame: pd.DataFrame, down: Iterable[str]) -> pd.DataFrame:
    """The frame with the names of its rows as its first columns."""
    named: pd.DataFrame = frame.copy()
    named.index.names = list(down)
    whole: pd.DataFrame = named.reset_index()
    return whole


def _escaped(name: Any) -> str:
    """A name that neither ends a cell of a Markdown table nor begins a tag."""
    return re.sub(r"([|<])", r"\\\1", str(name))


def _tex(text: Any) -> str:
    return str(text).translate(_LATEX)
