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

from benchmark.report.table_data import KINDS, Table, TableBlock
from benchmark.report.tables import format_cell

_DOUBTED = ", in doubt"

_VALUES, _FRONT = alt.NamedData("values"), alt.NamedData("front")
"""Added to finished specifications: Altair copies a specification often, with all data in it."""

_SHAPES = {
    "defense": "diamond",
    "control": "circle",
    f"defense{_DOUBTED}": "cross",
    f"control{_DOUBTED}": "triangle-up",
}
"""A point in doubt must look different from a claim."""

_RATE = alt.Scale(domain=[0, 1])

_HIGHLIGHT = alt.selection_point(fields=["column"], bind="legend", name="chosen")
"""A click on a legend highlights one defense."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """A specification with its heading and alternative text; `least_width` is in pixels."""

    title: str
    description: str
    spec: Mapping[str, Any]
    least_width: int = 0


@debug_mode(False)  # checking every field against the schema takes most of the time
def charts_of(block: TableBlock, board: pd.DataFrame) -> list[Chart]:
    """Make the charts of a block.

    `board` holds the leaderboard rows of its data set and target, with `column`, `attacker` and `ball`.
    """
    kinds = {kind: [table for table in block.tables if table.kind == kind] for kind in KINDS}
    palette = list(dict.fromkeys(str(name) for table in kinds["errors"] for name in table.frame.columns))
    charts = [_heat_map(table) for table in kinds["errors"]]
    charts += [_by_eps(table, palette) for table in kinds["eps"]]
    known = board.dropna(subset=["error", "purify_ms"])
    for (attacker, ball), rows in known.groupby(["attacker", "ball"], sort=False):
        charts.append(_against_time(rows, f"{attacker}, {ball}", palette))
    for table in kinds["fidelity"]:
        charts.append(_fidelity(table, "psnr", "PSNR (dB)", palette))
        charts.append(_fidelity(table, "ssim", "SSIM", palette))
    return charts


def _cells(table: Table) -> Iterator[dict[str, Any]]:
    """Every measurement of a table as a number and as text, with its row and column."""
    for label, column, measurement in table.measurements():
        numbers = {name: getattr(measurement, name) for name in ("value", "low", "high")}
        yield {
            "row": str(label),
            "column": str(column),
            "measure": measurement.measure,
            **{name: None if math.isnan(number) else round(number, 5) for name, number in numbers.items()},
            "text": format_cell((measurement,), {}, intervals=False),
            "long": format_cell((measurement,), {}, intervals=True),
            "flags": " ".join(measurement.flags),
        }


def _heat_map(table: Table) -> Chart:
    cells = list(_cells(table))
    rows, columns = _order(cells, "row"), _order(cells, "column")
    base = alt.Chart(_VALUES).encode(
        x=alt.X("row:N", sort=rows, title=None, axis=alt.Axis(labelAngle=-40, orient="top")),
        y=alt.Y("column:N", sort=columns, title=None, axis=alt.Axis(labelLimit=170)),
        tooltip=_tooltip("row:N", "attack"),
    )
    rectangles = base.mark_rect(stroke="white", strokeWidth=1).encode(
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(domain=[0, 1], scheme="yelloworangered"),
            legend=alt.Legend(format="%", title="error", orient="bottom", gradientLength=160),
        )
    )
    shade = alt.condition(alt.datum.value > 0.55, alt.value("white"), alt.value("#222"))
    text = base.mark_text(fontSize=11).encode(text="text:N", color=shade)
    spec = (rectangles + text).properties(width="container", height=26 * len(columns))
    title = f"Error by attack and defense – {table.title}"
    description = f"Heat map of the error in percent, attacks across and defenses down; {table.title}."
    return Chart(title, description, _with_data(_plain(spec), cells), least_width=200 + 46 * len(rows))


def _by_eps(table: Table, palette: Sequence[str]) -> Chart:
    cells = [cell | {"eps": float(cell["row"])} for cell in _cells(table) if cell["value"] is not None]
    base = alt.Chart(_VALUES).encode(
        x=alt.X("eps:Q", title="ε"), color=_color(palette), opacity=_opacity(1.0, 0.08)
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title="error", axis=alt.Axis(format="%"), scale=_RATE),
        y2="high:Q",
        opacity=_opacity(0.13, 0.02),
    )
    line = base.mark_line(point=True).encode(y="value:Q", tooltip=_tooltip("row:N", "ε"))
    spec = (band + line.add_params(_HIGHLIGHT)).properties(width="container", height=260)
    description = f"Error against ε with 95 % bands, one line for each defense; {table.title}."
    return Chart(f"Error against ε – {table.title}", description, _with_data(_plain(spec), cells))


def _against_time(rows: pd.DataFrame, title: str, palette: Sequence[str]) -> Chart:
    """Worst-case error of the leaderboard against the time of one purification, with the Pareto front."""
    points: list[dict[str, Any]] = [
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
    front: list[dict[str, Any]] = []  # without points in doubt
    for point in sorted(points, key=lambda point: (point["ms"], -point["robust"])):
        if not point["kind"].endswith(_DOUBTED) and (not front or point["robust"] > front[-1]["robust"]):
            front.append({"ms": point["ms"], "robust": point["robust"]})
    datasets = {"front": front} if len(front) > 1 else {}
    spec = _with_data(_time_chart(tuple(palette), with_front=bool(datasets)), points, **datasets)
    description = (
        f"Share of images that are right in the worst case against milliseconds per image; {title}. "
        "The dashed line joins the defenses that no other one beats in both."
    )
    return Chart(f"Robustness against time – {title}", description, spec)


@cache
def _time_chart(palette: Sequence[str], *, with_front: bool) -> dict[str, Any]:
    """The chart without data, because a run has one for each ball, and Altair takes long for each.

    A front is drawn only on request, because Vega warns about a front without data.
    """
    base = alt.Chart(_VALUES).encode(
        x=alt.X("ms:Q", title="ms per image", scale=alt.Scale(type="log")),
        color=_color(palette),
        opacity=_opacity(1.0, 0.1),
    )
    points = base.mark_point(size=90, filled=True).encode(
        y=alt.Y("robust:Q", title="right in the worst case", axis=alt.Axis(format="%"), scale=_RATE),
        shape=alt.Shape(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values())),
            legend=alt.Legend(orient="bottom", columns=2),
        ),
        tooltip=[
            alt.Tooltip("column:N", title="defense"),
            alt.Tooltip("robust:Q", format=".1%", title="right"),
            alt.Tooltip("ms:Q", format=".3g", title="ms per image"),
            alt.Tooltip("kind:N", title="kind"),
        ],
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    layers = bars + points.add_params(_HIGHLIGHT)
    if with_front:
        dashes = alt.Chart(_FRONT).mark_line(interpolate="step-after", strokeDash=[4, 3], color="gray")
        layers = dashes.encode(x="ms:Q", y="robust:Q") + layers
    return _plain(layers.properties(width="container", height=260))


def _fidelity(table: Table, measure: str, title: str, palette: Sequence[str]) -> Chart:
    """From the adversarial image to the purified one, for each attack and defense."""
    cells = [cell for cell in _cells(table) if cell["measure"] == measure and cell["value"] is not None]
    before = {cell["row"]: cell["value"] for cell in cells if cell["column"] == "attacked"}
    moves = [cell | {"before": before[cell["row"]]} for cell in cells if cell["column"] != "attacked"]
    base = alt.Chart(_VALUES).encode(
        y=alt.Y("row:N", sort=_order(moves, "row"), title=None, axis=alt.Axis(labelLimit=150)),
        yOffset=alt.YOffset("column:N", sort=_order(moves, "column")),
        color=_color(palette),
        opacity=_opacity(1.0, 0.1),
    )
    scale = alt.Scale(zero=False)
    rules = base.mark_rule().encode(x=alt.X("before:Q", scale=scale, title=title), x2="value:Q")
    ends = base.mark_point(filled=True, size=45).encode(
        x=alt.X("value:Q", scale=scale),
        tooltip=_tooltips(
            {"column:N": "defense", "row:N": "attack", "before:Q": "adversarial", "value:Q": "purified"}
        ),
    )
    starts = base.mark_tick(thickness=2, color="gray", size=6).encode(
        x=alt.X("before:Q", scale=scale), color=alt.value("gray")
    )
    height = len(_order(moves, "row")) * max(18, 7 * len(_order(moves, "column")))
    spec = (rules + starts + ends.add_params(_HIGHLIGHT)).properties(width="container", height=height)
    text = f"{title} against the clean image: from the adversarial image (tick) to the purified one (dot)."
    return Chart(f"{title} before and after – {table.attacker}", text, _with_data(_plain(spec), moves))


def _opacity(highlighted: float, other: float) -> alt.OpacityValue:
    return alt.OpacityValue(other, condition={"param": _HIGHLIGHT.name, "value": highlighted})


def _color(names: Sequence[str]) -> alt.Color:
    scheme: Literal["tableau10", "tableau20"] = "tableau10" if len(names) <= 10 else "tableau20"
    return alt.Color(
        "column:N",
        sort=list(names),
        scale=alt.Scale(domain=list(names), scheme=scheme),
        legend=alt.Legend(title=None, orient="bottom", columns=2, labelLimit=170, symbolOpacity=1),
    )


def _tooltip(field: str, title: str) -> list[alt.Tooltip]:
    names = {"column:N": "defense", field: title, "long:N": "error, %"}
    return [*_tooltips(names), alt.Tooltip("flags:N")]


def _tooltips(titles: Mapping[str, str]) -> list[alt.Tooltip]:
    return [alt.Tooltip(field, title=title) for field, title in titles.items()]


def _order(cells: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(str(cell[name]) for cell in cells))


def _with_data(spec: Mapping[str, Any], values: Rows, **others: Rows) -> dict[str, Any]:
    return {**spec, "datasets": {"values": values, **others}}


def _plain(chart: Any) -> dict[str, Any]:
    """The specification without the URL of its schema: the page contains no external URL."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec.pop("$schema", None)
    return spec
