"""The page of a run: its content, the escaping of names, no requests to elsewhere."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmark.cli.report_images import images_of
from benchmark.errors import UserError
from benchmark.files.tables import Row
from benchmark.report import write_report
from benchmark.report.charts import charts_of
from benchmark.report.html_page import read_flags
from benchmark.report.images import (
    Images,
    ImagesUnavailable,
    Picture,
    Strip,
    amplified,
    png_url,
    representative_outcomes,
)
from benchmark.report.table_data import TableBlock
from benchmark.results.flags import FLAGS
from tests.conftest import Runner

EVIL = "<script>alert(1)</script>"

GRID = {
    "name": "small",
    "defenses": ["identity", "median", "noisy", "raises"],
    "attacks": [{"name": "fgsm", "eps": [0.05, 0.1]}],
}


class Page(HTMLParser):
    """Tags, attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._inside.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if not self._inside or self._inside[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture
def run(small_run: Runner, tmp_path: Path) -> Path:
    """A small run with a random defense and one that fails."""
    small_run(**GRID)
    return tmp_path / "out"


def written(run: Path, images: Images) -> str:
    return write_report(run, images, run / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_real_images_with_their_predictions(
    run: Path, constructed: Path, session_store: str
) -> None:
    images = images_of(run, data=None, store=session_store, plugins=[constructed])
    records = pd.read_csv(run / "records.csv")
    outcomes = pd.read_parquet(run / "outcomes.parquet")
    cell = records[(records["defense"] == "median") & (records["threat"] == "black-box")].iloc[0]
    rows = representative_outcomes(outcomes)[cell["key"]]
    strip = images.strip(cell["key"], rows)
    assert strip.note == ""
    assert len(strip.pictures) == 3
    first, row = strip.pictures[0], rows[0]
    assert first.captions[0] == f"clean: {row['label']}; pipeline predicts {row['clean']}"
    assert first.captions[1].endswith(f"bare target predicts {row['target_adversarial']}")
    assert first.captions[2].endswith(f"pipeline predicts {row['adversarial']}")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.url.partition(",")[2]))), dtype=float)
    clean, adversarial = sheet[:, :28] / 255, sheet[:, 30:58] / 255
    assert np.abs(adversarial - clean).max() == pytest.approx(cell["eps"], abs=1 / 128)
    page = Page(written(run, images))
    ok = int((records["status"] == "ok").sum())
    assert sum(tag == "img" for tag, _ in page.tags) == 3 * ok
    assert all(
        (attributes["alt"] or "").startswith("Test image") for tag, attributes in page.tags if tag == "img"
    )
    assert "from a fresh one" in page.text  # the note of the random defense names the draw


def test_missing_images_are_noted(run: Path, constructed: Path, tmp_path: Path) -> None:
    images = images_of(run, data=None, store=str(tmp_path / "empty"), plugins=[constructed])
    page = Page(written(run, images))
    assert "The store does not hold the images of this cell." in page.text
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not list((tmp_path / "empty").rglob("*.safetensors"))  # nothing was computed for a page


def test_without_the_plugin_of_the_run_the_page_is_made_and_says_why(run: Path, tmp_path: Path) -> None:
    images = images_of(run, data=None, store=str(tmp_path / "empty"), plugins=[])
    text = Page(written(run, images)).text
    assert "the grid of the run cannot be planned here" in text
    assert "nearest-mean" in text


def test_failed_cells_have_their_reason_and_no_error(run: Path) -> None:
    text = Page(written(run, ImagesUnavailable("none"))).text
    assert "out of purifier fluid" in text
    assert re.search(r"failed\s+raises", text)


def test_names_that_are_code_show_as_text(run: Path) -> None:
    for name in ("records.csv", "leaderboard.csv"):
        table = pd.read_csv(run / name, dtype={"flags": str}, keep_default_na=False)
        for column in ("defense", "target", "dataset"):
            table[column] = EVIL + table[column]
        if name == "records.csv":
            table["attack"], table["reason"] = EVIL, EVIL
        table["flags"] = EVIL
        table.to_csv(run / name, index=False)
    about = json.loads((run / "run.json").read_text())
    about |= {"name": EVIL, "command": ["bench", EVIL], "grid": {"name": EVIL}, "device": EVIL}
    (run / "run.json").write_text(json.dumps(about))

    class Named(Images):
        def strip(self, key: str, rows: Sequence[Row]) -> Strip:
            return Strip((Picture(0, "data:,", (EVIL, EVIL, EVIL, EVIL), True),), EVIL)

    text = written(run, Named())
    assert EVIL not in text
    page = Page(text)
    assert page.text.count(EVIL) > 30
    assert sum(tag == "script" for tag, _ in page.tags) == 3  # the specifications, Vega, the page's own


def test_the_page_loads_nothing_from_elsewhere(run: Path) -> None:
    text = written(run, ImagesUnavailable("none"))
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match(r"#|data:", attributes.get(name) or "#"), (tag, attributes)
    policy = next(str(attributes["content"]) for tag, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "'unsafe-eval'" not in policy
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # Vega names XML namespaces and schemas
    assert not re.search(r"https?://|@import|url\(", own)


def test_the_page_of_a_run_is_the_same_bytes_each_time_and_small(run: Path) -> None:
    first = written(run, ImagesUnavailable("none"))
    assert written(run, ImagesUnavailable("none")) == first
    assert len(first) < 2_000_000


def test_every_flag_is_explained() -> None:
    explained = {flag.name: flag for flag in read_flags()}
    assert set(explained) == set(FLAGS)
    assert all(flag.why and flag.what_to_do and flag.kind for flag in explained.values())


def test_flags_that_were_raised_are_on_the_page_and_others_are_not(small_run: Runner, tmp_path: Path) -> None:
    small_run(attacks=["gives-up"])
    text = Page(written(tmp_path / "out", ImagesUnavailable("none"))).text
    flag = next(flag for flag in read_flags() if flag.name == "not-moved")
    assert flag.why in text
    assert next(flag for flag in read_flags() if flag.name == "cheap-surface").why not in text


def test_a_run_in_which_everything_failed_has_a_page(small_run: Runner, tmp_path: Path) -> None:
    small_run(defenses=["raises"])
    assert "out of purifier fluid" in Page(written(tmp_path / "out", ImagesUnavailable("none"))).text


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        write_report(tmp_path, ImagesUnavailable("none"), tmp_path / "report.html")
    with pytest.raises(UserError, match="is a folder"):
        write_report(tmp_path, ImagesUnavailable("none"), tmp_path)


def test_a_difference_is_amplified_around_grey() -> None:
    shown, factor = amplified(torch.tensor([0.0, 0.1, -0.05]))
    assert shown.tolist() == pytest.approx([0.5, 1.0, 0.25])
    assert factor == pytest.approx(5.0)
    assert amplified(torch.zeros(3))[0].tolist() == [0.5, 0.5, 0.5]


def test_large_and_coloured_images_are_made_small() -> None:
    url = png_url([torch.rand(3, 300, 200)] * 4)
    sheet = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert sheet.mode == "RGB"
    assert sheet.size == (4 * 32 + 3 * 2, 48)


def test_representative_images_come_first() -> None:
    rows = pd.DataFrame(
        {
            "key": ["a"] * 4 + ["b"],
            "index": [0, 1, 2, 3, 0],
            "label": 0,
            "clean": [1, 0, 0, 0, 0],
            "adversarial": [1, 0, 1, 1, 0],
        }
    )
    selected = representative_outcomes(rows)
    assert {key: [row["index"] for row in shown] for key, shown in selected.items()} == {
        "a": [2, 1, 3],
        "b": [0],
    }


def test_a_row_in_doubt_is_no_point_of_the_pareto_front() -> None:
    rows = pd.DataFrame(
        {
            "column": ["sure", "doubted", "slow"],
            "error": [0.5, 0.1, 0.6],
            "error_low": 0.0,
            "error_high": 1.0,
            "purify_ms": [1.0, 2.0, 3.0],
            "control": False,
            "bound": ["found", "≥", "found"],
            "attacker": "black-box",
            "ball": "L∞ ≤ 0.3",
        }
    )

    def drawn(shown: pd.DataFrame) -> dict[str, list[dict[str, object]]]:
        (chart,) = charts_of(TableBlock("d", "t", 10, "", ()), shown)
        return chart.spec["datasets"]

    found = drawn(rows)  # `sure` beats `slow` in both, and a front of one point is no line
    assert list(found) == ["values"]
    assert {point["column"]: point["kind"] for point in found["values"]}["doubted"] == "defense, in doubt"
    front = drawn(rows.assign(bound="found"))["front"]
    assert front == [{"ms": 1.0, "robust": 0.5}, {"ms": 2.0, "robust": 0.9}]


def test_a_defense_has_one_colour_on_the_whole_page(run: Path) -> None:
    page = written(run, ImagesUnavailable("none"))
    specs = json.loads(page.partition('id="specs">')[2].partition("</script>")[0])

    def domains(part: object) -> Iterator[list[str]]:
        if isinstance(part, dict):
            if part.get("field") == "column" and "scale" in part:
                yield part["scale"]["domain"]
            for inner in part.values():
                yield from domains(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from domains(inner)

    found = [next(domains(spec), None) for spec in specs]
    coloured = [names for names in found if names is not None]
    assert len(coloured) > 2
    assert all(names == coloured[0] for names in coloured)
    assert "median" in coloured[0]


def test_the_page_compares_the_run_with_papers(run: Path) -> None:
    assert "Comparison with the papers" not in Page(written(run, ImagesUnavailable("none"))).text
    records = (run / "records.csv").read_text()
    (run / "records.csv").write_text(records.replace("digits", "mnist").replace("nearest-mean", "mnist-c"))
    text = Page(written(run, ImagesUnavailable("none"))).text
    assert "Comparison with the papers" in text
    assert "Published and measured values" in text
    assert text.count("95 %") > 2
