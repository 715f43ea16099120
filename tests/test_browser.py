"""The page of a run in a real browser: it draws, sorts, filters, and asks nothing of the network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

GRID = {
    "name": "seen",
    "datasets": [{"name": "digits", "n": 40}],
    "targets": ["nearest-mean"],
    "defenses": ["identity", "median", "gaussian-blur"],
    "attacks": [{"name": "fgsm", "eps": [0.05, 0.1]}, {"name": "pgd", "eps": 0.1, "steps": 10}],
    "threats": ["black-box", "white-box"],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small run."""
    from benchmark.display import Silent
    from benchmark.report import write_report
    from benchmark.report.images import StoredImages
    from benchmark.runs import prepare, run_prepared

    folder = tmp_path_factory.mktemp("seen")
    plugin = folder / "constructed.py"
    plugin.write_bytes((REPOSITORY / "tests" / "constructed.py").read_bytes())
    prepared = prepare(GRID, Silent(), store=folder / "store", plugins=[plugin])
    run_prepared(prepared, Silent(), folder / "out")
    return write_report(folder / "out", StoredImages(prepared), folder / "out" / "report.html")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium; skips where there is none, unless BENCH_REQUIRE_BROWSER forbids that."""
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


class Seen:
    """A page that is open at a width."""

    def __init__(self, chromium: Any, page: Path, width: int) -> None:
        self._chromium = chromium
        for kind in ("browser", "performance"):
            chromium.get_log(kind)  # what an earlier page left
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        chromium.get(page.as_uri())
        self.wait("!document.querySelector('[data-chart]:not(.vega-embed)')")

    def ask(self, expression: str) -> Any:
        return self._chromium.execute_script(f"return {expression}")

    def wait(self, expression: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._chromium, 60).until(lambda _: self.ask(expression))

    def type(self, selector: str, text: str) -> None:
        field = self._chromium.find_element("css selector", selector)
        field.clear()
        field.send_keys(text)

    def press(self, selector: str) -> None:
        """By keyboard alone."""
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

    def column(self, place: int) -> list[str]:
        cells = f"#board tbody tr:not([hidden]) > :nth-child({place})"
        return list(self.ask(f"[...document.querySelectorAll('{cells}')].map(c => c.textContent.trim())"))


def test_it_draws_without_an_error_and_without_a_request(chromium: Any, page: Path) -> None:
    seen = Seen(chromium, page, 1280)
    charts = seen.ask("document.querySelectorAll('[data-chart]').length")
    assert charts >= 2 + 2 + 2 + 2  # heat maps, sweeps, time, fidelity
    assert seen.ask("document.querySelectorAll('[data-chart] svg').length") == charts
    assert seen.ask("[...document.querySelectorAll('[data-chart] svg')].every(s => s.clientWidth > 300)")
    assert seen.console() == []
    assert [url for url in seen.requests() if not url.startswith(("data:", "blob:"))] == [page.as_uri()]


def test_a_click_sorts_and_another_one_turns_it_round(chromium: Any, page: Path) -> None:
    seen = Seen(chromium, page, 1280)
    errors = (
        "[...document.querySelectorAll('#board tbody tr')].map(r => parseFloat(r.cells[2].dataset.value))"
    )
    seen.press("#board thead th:nth-child(3) button")
    rising = seen.ask(errors)
    assert len(set(rising)) > 1
    assert rising == sorted(rising)
    assert seen.ask("document.querySelector('#board thead th:nth-child(3)').ariaSort") == "ascending"
    seen.press("#board thead th:nth-child(3) button")
    assert seen.ask(errors) == sorted(rising, reverse=True)
    seen.press("#board thead th:nth-child(2) button")
    assert seen.column(2) == sorted(seen.column(2))


def test_words_and_choices_filter_the_rows(chromium: Any, page: Path) -> None:
    seen = Seen(chromium, page, 1280)
    whole = len(seen.column(2))
    seen.type("#board-filters input", "MEDIAN white")
    left = seen.column(2)
    assert 0 < len(left) < whole
    assert all(name.startswith("median") for name in left)
    assert seen.ask("document.querySelector('#board-count').textContent") == f"{len(left)} of {whole}"
    seen.type("#board-filters input", " ")
    seen._chromium.find_element("css selector", "[data-filter=attacker]").send_keys("black")
    assert len(seen.column(2)) == whole / 2
    seen.type("#cell-filters input", "pgd median")
    shown = "document.querySelectorAll('#cell-list > details:not([hidden])').length"
    assert seen.ask(shown) == 2
    seen.type("#cell-filters input", "white unchecked:not-converged pgd")
    assert seen.ask(shown) == len({"identity", "median", "gaussian-blur"})


def test_image_strips_are_there(chromium: Any, page: Path) -> None:
    seen = Seen(chromium, page, 1280)
    seen.ask("document.querySelectorAll('.cell').forEach(cell => cell.open = true)")
    seen.wait("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
    per_cell = seen.ask("[...document.querySelectorAll('.cell')].map(c => c.querySelectorAll('img').length)")
    assert per_cell == [3] * (3 * 3 * 2)


def test_it_fits_a_phone_in_the_light_and_in_the_dark(chromium: Any, page: Path) -> None:
    seen = Seen(chromium, page, 390)
    light = seen.ask("getComputedStyle(document.body).backgroundColor")
    assert seen.ask("document.documentElement.scrollWidth") <= 390
    # legends below each other: the last one would stand beyond the edge of its chart
    beyond = (
        "[...document.querySelectorAll('[data-chart] svg .role-legend-label text')]"
        ".filter((text) => text.getBoundingClientRect().right"
        " > text.closest('svg').getBoundingClientRect().right + 1).length"
    )
    assert seen.ask("document.querySelectorAll('[data-chart] svg .role-legend-label text').length") > 10
    assert seen.ask(beyond) == 0
    seen.press("#theme")
    assert seen.ask("getComputedStyle(document.body).backgroundColor") != light
    seen.wait("document.querySelectorAll('[data-chart] svg').length")
    assert seen.ask("document.querySelector('#theme').getAttribute('aria-pressed')") == "true"
    assert seen.console() == []
