"""What tasks are expected to cost, and the time that a run still takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.execution.costs import CostModel
from benchmark.execution.observer import Observer, Silent
from benchmark.execution.remaining import RemainingWork
from benchmark.plan import tasks
from benchmark.plan.tasks import Task
from benchmark.runs import PlannedRun, execute_run, plan_run

GRID: dict[str, Any] = {
    "name": "costs",
    "datasets": [{"name": "digits", "n": 40}],
    "targets": ["nearest-mean"],
    "source": "target",
    "defenses": ["identity", "shift"],
    "attacks": [{"name": "pgd", "eps": 0.1, "steps": 2}],
    "threats": ["black-box", "white-box"],
}

Planner = Callable[..., PlannedRun]


@pytest.fixture
def planned(constructed: Path, tmp_path: Path) -> Planner:
    def plan(sanity: Any = "fast", **keys: Any) -> PlannedRun:
        store = tmp_path / "store"
        return plan_run(
            GRID | keys, Silent(), store=store, device="cpu", plugins=[constructed], sanity=sanity
        )

    return plan


def first(planned: PlannedRun, kind: type[Task], **fields: Any) -> Any:
    return next(
        task
        for task in planned.plan.tasks
        if isinstance(task, kind) and all(getattr(task, name) == value for name, value in fields.items())
    )


def model() -> CostModel:
    return CostModel(calibration=0.01)


def test_every_kind_of_task_has_an_expected_time(planned: Planner, constructed: Path) -> None:
    """Also the tasks of plugins that the package does not know."""
    threats = ["black-box", {"name": "white-box", "preset": "strong"}, "transfer"]
    plans = [
        planned(attacks=[{"name": "pgd", "eps": 0.1}], threats=threats, sanity="full"),
        planned(defenses=["magnet"], attacks=[{"name": "advgan", "eps": 0.1}]),
    ]
    every = [task for plan in plans for task in plan.plan.tasks]
    expected = {type(task): model().seconds(task) for task in every}
    assert set(expected) == set(tasks.TASK_TYPES) - {tasks.ExternalImages}
    assert all(seconds > 0 for seconds in expected.values())


def test_more_work_takes_longer(planned: Planner) -> None:
    def craft(**parameters: Any) -> float:
        plan = planned(attacks=[{"name": "pgd", "eps": 0.1} | parameters])
        return model().seconds(first(plan, tasks.Craft))

    few = craft(steps=2)
    assert craft(steps=20) > 2 * few
    assert craft(steps=2, restarts=10) > 2 * few

    def training(**parameters: Any) -> float:
        plan = planned(targets=[{"name": "mnist-c"} | parameters])
        return model().seconds(first(plan, tasks.TrainTarget))

    assert training(epochs=400) > 2 * training(epochs=40)
    assert training(min_steps=10_000) > 2 * training(min_steps=100)
    small, large = (planned(datasets=[{"name": "digits", "n": n}]) for n in (2, 100))
    assert model().seconds(first(large, tasks.Craft)) > 2 * model().seconds(first(small, tasks.Craft))


def test_a_slow_machine_takes_longer(planned: Planner) -> None:
    craft = first(planned(), tasks.Craft)
    slow, fast = (CostModel(calibration=seconds).seconds(craft) for seconds in (0.1, 0.01))
    assert slow == pytest.approx(10 * fast)


def test_measured_tasks_correct_the_others(planned: Planner) -> None:
    plan, costs = planned(defenses=["identity", "shift", "jpeg"]), model()
    purifies = [first(plan, tasks.Purify, label=name) for name in ("identity", "shift", "jpeg")]
    craft = first(plan, tasks.Craft)
    before = [costs.seconds(task) for task in (*purifies, craft)]
    costs.observe(purifies[0], 3.0)
    after = [costs.seconds(task) for task in (*purifies, craft)]
    assert after[0] == pytest.approx(3.0)
    assert after[1:3] == pytest.approx([3.0 / before[0] * seconds for seconds in before[1:3]])
    assert after[3] == before[3]  # another kind, of which so little time says nothing
    probe = first(plan, tasks.GradientProbe)
    expected = costs.seconds(probe)
    costs.observe(craft, 2 * before[3] + 1000.0)  # the whole run is slow: perhaps the machine is busy
    assert costs.seconds(probe) == pytest.approx(4 * expected)


def test_timings_of_an_earlier_run_come_first(planned: Planner, tmp_path: Path) -> None:
    """A second attack seed has no result yet, but takes as long as the first one, on any machine."""
    seeds = {"target": [0], "defense": [0], "attack": [0]}
    earlier = planned(threats=["black-box"], seeds=seeds)
    execute_run(earlier, Silent(), tmp_path / "out")
    context = earlier.context
    took = context.meta(first(earlier, tasks.Craft))["seconds"]
    more = planned(threats=["black-box"], seeds={**seeds, "attack": [1]})
    new = first(more, tasks.Craft)
    assert new.key not in {task.key for task in earlier.plan.tasks}
    for calibration in (0.001, 1000.0):
        assert CostModel(context.store, calibration=calibration).seconds(new) == pytest.approx(took)


def test_crafts_of_one_sweep_share_its_time(planned: Planner) -> None:
    plan = planned(attacks=[{"name": "fgsm", "eps": [0.1, 0.2, 0.3, 0.4]}])
    craft = first(plan, tasks.Craft)
    together = CostModel(planned=plan.plan.tasks, calibration=0.01).seconds(craft)
    assert together == pytest.approx(model().seconds(craft) / 4)


def test_the_store_is_not_read_for_each_task(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, read = planned(attacks=[{"name": "fgsm", "eps": [0.01 * n for n in range(1, 30)]}]), list[str]()
    store = plan.context.store
    monkeypatch.setattr(store, "samples", lambda kind, label, limit: read.append(f"{kind} {label}") or ())
    costs = CostModel(store, calibration=0.01)
    for task in plan.plan.tasks:
        costs.seconds(task)
    assert len(plan.plan.tasks) > 100
    assert len(read) == len(set(read))


class _Constant(CostModel):
    """Every task takes ten seconds."""

    def __init__(self) -> None:
        super().__init__(calibration=0.01)

    def seconds(self, task: Task) -> float:
        return 10.0


def test_time_left_is_shared_by_workers_but_not_below_the_longest_chain(planned: Planner) -> None:
    every = planned().plan.tasks
    chains: dict[str, int] = {}
    for task in every:
        chains[task.key] = 1 + max((chains[needed.key] for needed in task.needs()), default=0)
    longest = max(chains.values())
    assert 1 < longest < len(every)
    assert RemainingWork(every, 1, _Constant()).seconds() == 10 * len(every)
    assert RemainingWork(every, 2, _Constant()).seconds() == max(10 * len(every) / 2, 10 * longest)
    assert RemainingWork(every, 1000, _Constant()).seconds() == 10 * longest


def test_time_left_falls_while_tasks_run_and_end(planned: Planner) -> None:
    every, now = planned().plan.tasks[:3], 100.0
    work = RemainingWork(every, 1, _Constant(), clock=lambda: now)
    work.started(every[0])
    now = 104.0
    assert work.seconds() == pytest.approx(26.0)
    now = 150.0  # much longer than expected: it goes on a little longer
    assert 20.0 < work.seconds() < 30.0
    work.ended(every[0])
    assert work.seconds() == 20.0


def test_a_training_is_judged_by_its_own_speed(planned: Planner) -> None:
    task, now = first(planned(), tasks.TrainTarget), 100.0
    work = RemainingWork([task], 1, _Constant(), clock=lambda: now)
    work.started(task)
    work.training(task, 500, 1000)  # it resumed there
    now = 102.0
    work.training(task, 510, 1000)
    assert work.seconds() == pytest.approx(98.0)


def test_a_run_tells_its_observer_every_task(planned: Planner, tmp_path: Path) -> None:
    """All that is to do is announced first, then ends, and has been learned from when it ends."""

    class Recorder(Observer):
        def begin(self, missing: Any, cached: Any, workers: int, costs: CostModel) -> None:
            self.missing, self.cached, self.workers, self.costs = missing, cached, workers, costs
            self.ended: list[Task] = []

        def finished(self, task: Task, seconds: float) -> None:
            self.ended.append(task)
            assert self.costs.seconds(task) < 1000 * max(seconds, 1e-3)

    plan, recorder, again = planned(threats=["black-box"]), Recorder(), Recorder()
    execute_run(plan, recorder, tmp_path / "out")
    assert recorder.workers >= 1
    assert recorder.cached == []
    assert {task.key for task in recorder.ended} == {task.key for task in recorder.missing}
    execute_run(plan, again, tmp_path / "out")
    assert again.missing == []
    assert {task.key for task in again.cached} == {task.key for task in recorder.missing}
