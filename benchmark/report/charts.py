"""The charts of a report as Vega-Lite specifications, made by Altair; Vega draws them in the browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import altair as alt
import pandas as pd
from altair.utils.schemapi import debug_mode

from benchmark.figures import KINDS, Block, Table
from benchmark.tables import shown

_ROW = 26
_LEGEND_COLUMNS = 2

_DOUBTED = ", in doubt"

_FIGURES, _FRONT = alt.NamedData("figures"), alt.NamedData("front")
"""Filled in when a specification is done: Altair copies it often, and figures in it with it."""

_SHAPES = {
    "defense": "diamond",
    "control": "circle",
    f"defense{_DOUBTED}": "cross",
    f"control{_DOUBTED}": "triangle-up",
}
"""A point in doubt must not look like a claim."""

_RATE = alt.Scale(domain=[0, 1])

_CHOSEN = alt.selection_point(fields=["column"], bind="legend", name="chosen")
"""A click on a legend leaves one defense in colour."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """A specification, what stands above it and what is said instead of it; `least_width` is in pixels."""

    title: str
    about: str
    spec: Mapping[str, Any]
    least_width: int = 0


def charts_of(block: Block, board: pd.DataFrame) -> list[Chart]:
    """The charts of one data set, target and number of images.

    Args:
        block: Its tables.
        board: The leaderboard's rows of its data set and target, with `column`, `attacker` and `ball`.
    """
    with debug_mode(False):  # checking every field against the schema takes longer than all else
        return list(_charts(block, board))


def _charts(block: Block, board: pd.DataFrame) -> Iterator[Chart]:
    kinds = {kind: [table for table in block.tables if table.kind == kind] for kind in KINDS}
    palette = list(dict.fromkeys(str(name) for table in kinds["errors"] for name in table.frame.columns))
    yield from (_heat_map(table) for table in kinds["errors"])
    yield from (_by_eps(table, palette) for table in kinds["eps"])
    for (attacker, ball), rows in board.groupby(["attacker", "ball"], sort=False):
        known = rows.dropna(subset=["error", "purify_ms"])
        if not known.empty:
            yield _against_time(known, f"{attacker}, {ball}", palette)
    for table in kinds["fidelity"]:
        yield _fidelity(table, "psnr", "PSNR (dB)", palette)
        yield _fidelity(table, "ssim", "SSIM", palette)


def _cells(table: Table) -> Iterator[dict[str, Any]]:
    """Every figure of a table: its row, its column, and itself in percent and as text."""
    for line, row in table.frame.iterrows():
        for column, cell in row.items():
            if not isinstance(cell, tuple):
                continue
            for figure in cell:
                yield {
                    "row": str(line),
                    "column": str(column),
                    "measure": figure.measure,
                    "value": _known(figure.value),
                    "low": _known(figure.low),
                    "high": _known(figure.high),
                    "text": shown((figure,), {}, intervals=False),
                    "long": shown((figure,), {}, intervals=True),
                    "flags": " ".join(figure.flags),
                }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def _heat_map(table: Table) -> Chart:
    cells = list(_cells(table))
    rows, columns = _order(cells, "row"), _order(cells, "column")
    base = alt.Chart(_FIGURES).encode(
        x=alt.X("row:N", sort=rows, title=None, axis=alt.Axis(labelAngle=-40, orient="top")),
        y=alt.Y("column:N", sort=columns, title=None, axis=alt.Axis(labelLimit=170)),
        tooltip=[
            alt.Tooltip("column:N", title="defense"),
            alt.Tooltip("row:N", title="attack"),
            alt.Tooltip("long:N", title="error, %"),
            alt.Tooltip("flags:N"),
        ],
    )
    rectangles = base.mark_rect(stroke="white", strokeWidth=1).encode(
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(domain=[0, 1], scheme="yelloworangered"),
            legend=alt.Legend(format="%", title="error", orient="bottom", gradientLength=160),
        )
    )
    dark = alt.datum.value > 0.55
    text = base.mark_text(fontSize=11).encode(
        text="text:N", color=alt.condition(dark, alt.value("white"), alt.value("#222"))
    )
    spec = (rectangles + text).properties(width="container", height=_ROW * len(columns))
    title = f"Error by attack and defense – {table.title}"
    about = f"Heat map of the error in percent, attacks across and defenses down; {table.title}."
    return Chart(title, about, _filled(_plain(spec), cells), least_width=200 + 46 * len(rows))


def _by_eps(table: Table, palette: Sequence[str]) -> Chart:
    cells = [cell | {"eps": float(cell["row"])} for cell in _cells(table) if cell["value"] is not None]
    base = alt.Chart(_FIGURES).encode(
        x=alt.X("eps:Q", title="ε"), color=_color(palette), opacity=_opacity(1.0, 0.08)
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title="error", axis=alt.Axis(format="%"), scale=_RATE),
        y2="high:Q",
        opacity=_opacity(0.13, 0.02),
    )
    line = base.mark_line(point=True).encode(y="value:Q", tooltip=_tooltip("row:N", "ε"))
    spec = (band + line.add_params(_CHOSEN)).properties(width="container", height=260)
    about = f"Error against ε with 95 % bands, one line for each defense; {table.title}."
    return Chart(f"Error against ε – {table.title}", about, _filled(_plain(spec), cells))


def _against_time(rows: pd.DataFrame, title: str, palette: Sequence[str]) -> Chart:
    """The worst case of the leaderboard against the time of one purification, with the Pareto front."""
    points = [
        {
            "column": row["column"],
            "robust": 1 - row["error"],
            "low": 1 - row["error_high"],
            "high": 1 - row["error_low"],
            "ms": max(float(row["purify_ms"]), 1e-3),
            "kind": ("control" if row["control"] else "defense")
            + ("" if row["bound"] == "found" else _DOUBTED),
        }
        for row in rows.to_dict("records")
    ]
    front = _front(points)
    datasets = {"front": front} if len(front) > 1 else {}
    spec = _filled(_against_time_of(tuple(palette), dashed=bool(datasets)), points, **datasets)
    about = (
        f"Share of images that are right in the worst case against milliseconds per image; {title}. "
        "The dashed line joins the defenses that no other one beats in both."
    )
    return Chart(f"Robustness against time – {title}", about, spec)


@cache
def _against_time_of(palette: Sequence[str], *, dashed: bool) -> dict[str, Any]:
    """The chart without its figures: a run has one for each ball, and Altair takes long for each.

    Args:
        palette: Names of the defenses.
        dashed: Whether there is a front; without figures it would have Vega complain.
    """
    base = alt.Chart(_FIGURES).encode(
        x=alt.X("ms:Q", title="ms per image", scale=alt.Scale(type="log")),
        color=_color(palette),
        opacity=_opacity(1.0, 0.1),
    )
    marks = base.mark_point(size=90, filled=True).encode(
        y=alt.Y("robust:Q", title="right in the worst case", axis=alt.Axis(format="%"), scale=_RATE),
        shape=alt.Shape(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values())),
            legend=alt.Legend(orient="bottom", columns=_LEGEND_COLUMNS),
        ),
        tooltip=[
            alt.Tooltip("column:N", title="defense"),
            alt.Tooltip("robust:Q", format=".1%", title="right"),
            alt.Tooltip("ms:Q", format=".3g", title="ms per image"),
            alt.Tooltip("kind:N", title="kind"),
        ],
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    layers = bars + marks.add_params(_CHOSEN)
    if dashed:
        front = alt.Chart(_FRONT)
        dashes = front.mark_line(interpolate="step-after", strokeDash=[4, 3], color="gray")
        layers = dashes.encode(x="ms:Q", y="robust:Q") + layers
    return _plain(layers.properties(width="container", height=260))


def _front(points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other one beats in both; those in doubt claim nothing and are left out."""
    front: list[dict[str, Any]] = []
    claims = [point for point in points if not point["kind"].endswith(_DOUBTED)]
    for point in sorted(claims, key=lambda point: (point["ms"], -point["robust"])):
        if not front or point["robust"] > front[-1]["robust"]:
            front.append({"ms": point["ms"], "robust": point["robust"]})
    return front


def _fidelity(table: Table, measure: str, title: str, palette: Sequence[str]) -> Chart:
    """From the adversarial image to the purified one, for each attack and defense."""
    cells = [cell for cell in _cells(table) if cell["measure"] == measure and cell["value"] is not None]
    before = {cell["row"]: cell["value"] for cell in cells if cell["column"] == "attacked"}
    moves = [cell | {"before": before[cell["row"]]} for cell in cells if cell["column"] != "attacked"]
    base = alt.Chart(_FIGURES).encode(
        y=alt.Y("row:N", sort=_order(moves, "row"), title=None, axis=alt.Axis(labelLimit=150)),
        yOffset=alt.YOffset("column:N", sort=_order(moves, "column")),
        color=_color(palette),
        opacity=_opacity(1.0, 0.1),
    )
    scale = alt.Scale(zero=False)
    rules = base.mark_rule().encode(x=alt.X("before:Q", scale=scale, title=title), x2="value:Q")
    ends = base.mark_point(filled=True, size=45).encode(
        x=alt.X("value:Q", scale=scale),
        tooltip=[
            alt.Tooltip("column:N", title="defense"),
            alt.Tooltip("row:N", title="attack"),
            alt.Tooltip("before:Q", title="adversarial"),
            alt.Tooltip("value:Q", title="purified"),
        ],
    )
    starts = base.mark_tick(thickness=2, color="gray", size=6).encode(
        x=alt.X("before:Q", scale=scale), color=alt.value("gray")
    )
    rows, columns = len(_order(moves, "row")), len(_order(moves, "column"))
    spec = (rules + starts + ends.add_params(_CHOSEN)).properties(
        width="container", height=rows * max(18, 7 * columns)
    )
    about = f"{title} against the clean image: from the adversarial image (tick) to the purified one (dot)."
    return Chart(f"{title} before and after – {table.attacker}", about, _filled(_plain(spec), moves))


def _opacity(shown: float, hidden: float) -> alt.OpacityValue:
    return alt.OpacityValue(hidden, condition={"param": _CHOSEN.name, "value": shown})


def _color(names: Sequence[str]) -> alt.Color:
    scheme: Literal["tableau10", "tableau20"] = "tableau10" if len(names) <= 10 else "tableau20"
    return alt.Color(
        "column:N",
        sort=list(names),
        scale=alt.Scale(domain=list(names), scheme=scheme),
        legend=alt.Legend(
            title=None, orient="bottom", columns=_LEGEND_COLUMNS, labelLimit=170, symbolOpacity=1
        ),
    )


def _tooltip(field: str, title: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("column:N", title="defense"),
        alt.Tooltip(field, title=title),
        alt.Tooltip("long:N", title="error, %"),
        alt.Tooltip("flags:N"),
    ]


def _order(cells: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(str(cell[name]) for cell in cells))


def _filled(spec: Mapping[str, Any], figures: Rows, **others: Rows) -> dict[str, Any]:
    """A specification with the rows that it names."""
    return {**spec, "datasets": {"figures": figures, **others}}


def _plain(chart: Any) -> dict[str, Any]:
    """The specification, without the address of its schema: nothing in the page names another place."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec.pop("$schema", None)
    return spec
