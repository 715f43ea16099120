"""The page of a run in a real browser: it draws, sorts, filters, and makes no requests."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studies import REPOSITORY

GRID = {
    "name": "browser",
    "datasets": [{"name": "digits", "n": 40}],
    "targets": ["nearest-mean"],
    "defenses": ["identity", "median", "gaussian-blur"],
    "attacks": [{"name": "fgsm", "eps": [0.05, 0.1]}, {"name": "pgd", "eps": 0.1, "steps": 10}],
    "threats": ["black-box", "white-box"],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small run."""
    from benchmark.execution.observer import Silent
    from benchmark.report import write_report
    from benchmark.report.images import StoredImages
    from benchmark.runs import execute_run, plan_run

    folder = tmp_path_factory.mktemp("browser")
    plugin = folder / "toy.py"
    plugin.write_bytes((REPOSITORY / "tests" / "plugin_files" / "toy.py").read_bytes())
    prepared = plan_run(GRID, Silent(), store=folder / "store", plugins=[plugin])
    execute_run(prepared, Silent(), folder / "out")
    return write_report(
        folder / "out", StoredImages(prepared.context, prepared.plan.cells), folder / "out" / "report.html"
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium; skips if it is missing, unless BENCH_REQUIRE_BROWSER is set."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        message = "needs Chromium: `apt-get install chromium chromium-driver`"
        if os.environ.get("BENCH_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


class PageView:
    """A page opened at a given width."""

    def __init__(self, chromium: Any, page: Path, width: int) -> None:
        self._chromium = chromium
        for kind in ("browser", "performance"):
            chromium.get_log(kind)  # drop the log of an earlier page
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        chromium.get(page.as_uri())
        self.wait("!document.querySelector('[data-chart]:not(.vega-embed)')")

    def evaluate(self, expression: str) -> Any:
        return self._chromium.execute_script(f"return {expression}")

    def wait(self, expression: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._chromium, 60).until(lambda _: self.evaluate(expression))

    def type(self, selector: str, text: str) -> None:
        field = self._chromium.find_element("css selector", selector)
        field.clear()
        field.send_keys(text)

    def press(self, selector: str) -> None:
        """Press the Enter key on an element."""
        from selenium.webdriver.common.keys import Keys

        self._chromium.find_element("css selector", selector).send_keys(Keys.ENTER)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self._chromium.get_log("browser")]

    def requests(self) -> list[str]:
        events = [json.loads(entry["message"])["message"] for entry in self._chromium.get_log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def column(self, number: int) -> list[str]:
        cells = f"#board tbody tr:not([hidden]) > :nth-child({number})"
        return list(
            self.evaluate(f"[...document.querySelectorAll('{cells}')].map(c => c.textContent.trim())")
        )


def test_it_draws_without_an_error_and_without_a_request(chromium: Any, page: Path) -> None:
    view = PageView(chromium, page, 1280)
    charts = view.evaluate("document.querySelectorAll('[data-chart]').length")
    assert charts >= 2 + 2 + 2 + 2  # heat maps, sweeps, time, fidelity
    assert view.evaluate("document.querySelectorAll('[data-chart] svg').length") == charts
    assert view.evaluate("[...document.querySelectorAll('[data-chart] svg')].every(s => s.clientWidth > 300)")
    assert view.console() == []
    assert [url for url in view.requests() if not url.startswith(("data:", "blob:"))] == [page.as_uri()]


def test_a_click_sorts_and_another_one_reverses_the_order(chromium: Any, page: Path) -> None:
    view = PageView(chromium, page, 1280)
    errors = (
        "[...document.querySelectorAll('#board tbody tr')].map(r => parseFloat(r.cells[2].dataset.value))"
    )
    view.press("#board thead th:nth-child(3) button")
    rising = view.evaluate(errors)
    assert len(set(rising)) > 1
    assert rising == sorted(rising)
    assert view.evaluate("document.querySelector('#board thead th:nth-child(3)').ariaSort") == "ascending"
    view.press("#board thead th:nth-child(3) button")
    assert view.evaluate(errors) == sorted(rising, reverse=True)
    view.press("#board thead th:nth-child(2) button")
    assert view.column(2) == sorted(view.column(2))


def test_words_and_choices_filter_the_rows(chromium: Any, page: Path) -> None:
    view = PageView(chromium, page, 1280)
    whole = len(view.column(2))
    view.type("#board-filters input", "MEDIAN white")
    shown = view.column(2)
    assert 0 < len(shown) < whole
    assert all(name.startswith("median") for name in shown)
    assert view.evaluate("document.querySelector('#board-count').textContent") == f"{len(shown)} of {whole}"
    view.type("#board-filters input", " ")
    view._chromium.find_element("css selector", "[data-filter=attacker]").send_keys("black")
    assert len(view.column(2)) == whole / 2
    view.type("#cell-filters input", "pgd median")
    cells = "document.querySelectorAll('#cell-list > details:not([hidden])').length"
    assert view.evaluate(cells) == 2
    view.type("#cell-filters input", "white unchecked:not-converged pgd")
    assert view.evaluate(cells) == len({"identity", "median", "gaussian-blur"})


def test_image_strips_are_there(chromium: Any, page: Path) -> None:
    view = PageView(chromium, page, 1280)
    view.evaluate("document.querySelectorAll('.cell').forEach(cell => cell.open = true)")
    view.wait("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
    per_cell = view.evaluate(
        "[...document.querySelectorAll('.cell')].map(c => c.querySelectorAll('img').length)"
    )
    assert per_cell == [3] * (3 * 3 * 2)


def test_it_fits_a_phone_in_the_light_and_in_the_dark(chromium: Any, page: Path) -> None:
    view = PageView(chromium, page, 390)
    light = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    # legends are stacked: side by side the last one would extend beyond its chart
    beyond = (
        "[...document.querySelectorAll('[data-chart] svg .role-legend-label text')]"
        ".filter((text) => text.getBoundingClientRect().right"
        " > text.closest('svg').getBoundingClientRect().right + 1).length"
    )
    assert view.evaluate("document.querySelectorAll('[data-chart] svg .role-legend-label text').length") > 10
    assert view.evaluate(beyond) == 0
    view.press("#theme")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") != light
    view.wait("document.querySelectorAll('[data-chart] svg').length")
    assert view.evaluate("document.querySelector('#theme').getAttribute('aria-pressed')") == "true"
    assert view.console() == []
