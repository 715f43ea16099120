"""Tasks run at once only if the machine has what they need together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.execution import devices
from benchmark.execution.observer import Observer, Silent
from benchmark.execution.resources import ResourceModel
from benchmark.plan.tasks import Task
from benchmark.runs import PlannedRun, execute_run, plan_run
from studies import REPOSITORY

TOY = REPOSITORY / "tests" / "plugin_files" / "toy.py"
GRID: dict[str, Any] = {
    "datasets": [{"name": "digits", "n": 20}],
    "targets": ["nearest-mean"],
    "defenses": ["median", "gaussian-blur"],
    "attacks": [{"name": "uniform-noise", "eps": 0.1}],
    "threats": ["black-box"],
}
HUNGRY = """
from benchmark.defenses.median import Median
from benchmark.api.defense import defense
from benchmark.plugins.plugin import Resources

@defense("hungry")
class Hungry(Median):
    resources = Resources(memory=5, gpu=0.25)
"""


class Running(Observer):
    """Counts how many tasks run at once."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.most = 0

    def started(self, task: Task) -> None:
        self.now.add(task.key)
        self.most = max(self.most, len(self.now))

    def finished(self, task: Task, seconds: float) -> None:
        self.now.remove(task.key)


def planned(folder: Path, observer: Observer | None = None, **keys: Any) -> PlannedRun:
    (folder / "hungry.py").write_text(HUNGRY)
    plugins = [TOY, folder / "hungry.py"]
    return plan_run(GRID | keys, observer or Silent(), store=f"{folder}/store", plugins=plugins, device="cpu")


def needs(run: PlannedRun, kind: str) -> tuple[float, float]:
    """Memory and GPU share of the first task of a kind."""
    model = ResourceModel(run.context.registry, run.context.resources, memory=8)
    found = model.of(next(task for task in run.plan.tasks if task.kind == kind))
    return found.memory, found.gpu


def test_a_plugin_declares_what_its_tasks_need_and_a_grid_may_say_otherwise(tmp_path: Path) -> None:
    defenses = ["hungry"]
    assert needs(planned(tmp_path, defenses=["median"]), "purify") == (1, 1)
    assert needs(planned(tmp_path, defenses=defenses), "purify") == (5, 0.25)
    given: dict[str, Any] = {"hungry": {"memory": 3}}
    assert needs(planned(tmp_path, defenses=defenses, resources=given), "purify")[0] == 3
    given["purify"] = {"memory": 0.5, "gpu": 0.5}
    assert needs(planned(tmp_path, defenses=defenses, resources=given), "purify") == (0.5, 0.5)
    assert needs(planned(tmp_path, defenses=defenses, resources=given), "score")[0] == 3


def test_resources_change_no_key(tmp_path: Path) -> None:
    keys = [
        [cell.key for cell in planned(tmp_path, **given).plan.cells]
        for given in ({}, {"resources": {"median": {"memory": 9}}})
    ]
    assert keys[0] == keys[1]


def test_tasks_run_at_once_only_within_the_memory(tmp_path: Path) -> None:
    run = planned(tmp_path, resources={"median": {"memory": 5}, "gaussian-blur": {"memory": 3}})
    model = ResourceModel(run.context.registry, run.context.resources, memory=8)
    median, blur = (
        next(task for task in run.plan.tasks if task.label == name) for name in ("median", "gaussian-blur")
    )
    assert model.fits(median, [blur])
    assert not model.fits(median, [median])
    assert not model.fits(blur, [median, blur])
    small = ResourceModel(run.context.registry, run.context.resources, memory=2)
    assert small.fits(median, [])  # alone it has the whole machine
    assert not small.fits(blur, [median])


def test_a_run_starts_no_task_that_does_not_fit(tmp_path: Path) -> None:
    observer = Running()
    given = {name: {"memory": 100_000} for name in ("nearest-mean", "median", "gaussian-blur")}
    run = planned(tmp_path, observer, resources=given)
    assert not execute_run(run, observer, tmp_path / "out", workers=2).failed
    assert observer.most == 1


def test_several_workers_share_a_gpu_if_every_task_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(tmp_path, resources={kind: {"gpu": 0.25} for kind in ("purify", "score", "craft")})
    model = ResourceModel(run.context.registry, run.context.resources)
    assert model.per_gpu(run.plan.tasks) == 1  # the training of the target needs a whole one
    assert model.per_gpu(task for task in run.plan.tasks if task.kind == "score") == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices.worker_count("auto", torch.device("cuda"), 1, per_gpu=4) == 8
