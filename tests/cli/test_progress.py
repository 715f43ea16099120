"""The display of a run in which several tasks run at once."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark.cli import progress
from benchmark.cli.progress import Live, PlainLines
from benchmark.execution.costs import CostModel
from benchmark.execution.observer import Silent
from benchmark.plan import tasks
from benchmark.plan.tasks import Task
from benchmark.runs import plan_run

GRID: dict[str, Any] = {
    "name": "display",
    "datasets": [{"name": "digits", "n": 20}],
    "targets": ["nearest-mean", "mnist-c"],
    "defenses": ["identity", "ape-gan"],
    "attacks": [{"name": "pgd", "eps": [0.1, 0.2], "steps": 2}],
    "threats": ["black-box"],
}


class Screen(io.StringIO):
    """What a terminal of 160 columns receives."""

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


@pytest.fixture
def every(constructed: Path, tmp_path: Path) -> list[Task]:
    planned = plan_run(GRID, Silent(), store=tmp_path / "store", device="cpu", plugins=[constructed])
    return list(planned.plan.tasks)


def of_kind(every: list[Task], kind: type[Task]) -> list[Task]:
    return [task for task in every if isinstance(task, kind)]


def costs() -> CostModel:
    return CostModel(calibration=0.01)


def test_the_live_view_has_a_line_for_each_running_task(every: list[Task]) -> None:
    screen = Screen()
    live = Live(Console(file=screen, force_terminal=True, width=160))
    defense, target = of_kind(every, tasks.TrainDefense)[0], of_kind(every, tasks.TrainTarget)[0]
    score = of_kind(every, tasks.Score)[0]

    def frame(awaited: str) -> str:
        """What is shown once the awaited text is; the view is drawn ten times a second."""
        deadline = time.monotonic() + 30
        while awaited not in screen.text() and time.monotonic() < deadline:
            time.sleep(0.05)
        return screen.text()[screen.text().rindex("all tasks") :]

    live.begin(every, [], 3, costs())
    for task in (defense, target, score):
        live.started(task)
    live.training(defense, 30, 150, {"loss": 0.25})
    live.training(target, 7, 90, {"loss": 0.5})
    shown = frame("7/90")
    overall = shown.splitlines()[0]
    assert f"0/{len(every)}" in overall
    assert re.search(r"about \d.* left", overall)
    names = ("ape-gan", "nearest", "scoring")
    rows = {name: line for line in shown.splitlines() for name in names if name in line}
    assert "30/150" in rows["ape-gan"]
    assert "loss 0.25" in rows["ape-gan"]
    assert "7/90" in rows["nearest"]
    assert "scoring" in rows

    live.finished(defense, 2.0)
    live.failed(score, "out of luck")
    shown = frame(f"2/{len(every)}")
    assert f"2/{len(every)}" in shown
    assert "/min, about " in shown
    assert "30/150" not in shown
    assert "7/90" in shown
    live.end()


def test_plain_lines_name_what_runs(every: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen = Screen()
    lines = PlainLines(Console(file=screen, width=400))
    crafts, target = of_kind(every, tasks.Craft), of_kind(every, tasks.TrainTarget)[0]
    lines.begin(every, [], 3, costs())
    lines.started(target)
    lines.started(crafts[0])
    lines.started(crafts[1])
    begun = screen.getvalue()
    assert "training nearest-mean on digits …" in begun
    assert "crafting" not in begun.replace("crafting images (", "")
    now[0] = 11.0
    lines.finished(crafts[0], 11.0)
    line = screen.getvalue().removeprefix(begun)
    assert line.count("\n") == 1
    assert line.startswith(f"1/{len(every)} done: training nearest-mean, crafting images with pgd against ")
    assert "time left: about" in line
    now[0] = 15.0
    lines.finished(crafts[1], 4.0)
    assert screen.getvalue() == begun + line  # a line every ten seconds
    lines.finished(target, 15.0)
    assert screen.getvalue().endswith("training nearest-mean took 15 s\n")


def test_a_run_with_nothing_to_do_says_so(every: list[Task]) -> None:
    for display in (Live, PlainLines):
        screen = Screen()
        shown = display(Console(file=screen, force_terminal=display is Live, width=160))
        shown.begin([], every, 2, costs())
        shown.end()
        assert f"all {len(every)} results are in the store" in screen.text()
