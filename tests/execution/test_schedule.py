"""The schedule gives each unit once, after what it needs, and stops what a failure makes impossible."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from benchmark.errors import Failure
from benchmark.execution.schedule import Schedule, Unit


@dataclass(frozen=True, eq=False)
class Step:
    """A task with a key and needs, as a schedule sees it."""

    key: str
    needed: tuple[Step, ...] = ()
    seconds: float = 1.0
    kind: str = field(default="step")

    def needs(self) -> tuple[Step, ...]:
        return self.needed


def schedule(*tasks: Any, timed: bool = False) -> Schedule:
    return Schedule(tasks, (lambda task: task.seconds) if timed else None)  # type: ignore[attr-defined]


def taken(planned: Schedule) -> list[str]:
    """The keys of all units that can run now."""
    units = []
    while (unit := planned.take()) is not None:
        units.append(unit)
    return [unit.tasks[0].key for unit in units]


def test_a_unit_is_ready_when_everything_that_it_needs_is_done() -> None:
    a, b = Step("a"), Step("b")
    c = Step("c", (a, b))
    planned = schedule(a, b, c)
    first, second = planned.take(), planned.take()
    assert planned.take() is None
    planned.succeeded(first)
    assert planned.take() is None
    planned.succeeded(second)
    assert taken(planned) == ["c"]


def test_needed_results_that_are_stored_hold_nothing_up() -> None:
    assert taken(schedule(Step("b", (Step("stored"),)))) == ["b"]


def test_without_times_units_run_in_the_order_of_the_plan() -> None:
    assert taken(schedule(*(Step(str(number)) for number in range(20)))) == [str(n) for n in range(20)]


def test_the_start_of_the_longest_chain_comes_first() -> None:
    short, start = Step("short", seconds=5), Step("start", seconds=1)
    end = Step("end", (start,), seconds=10)
    assert taken(schedule(short, start, end, timed=True)) == ["start", "short"]


def test_a_failure_stops_all_that_need_it_and_nothing_else() -> None:
    a, other = Step("a"), Step("other")
    b = Step("b", (a,))
    c, d = Step("c", (b,)), Step("d", (other,))
    planned = schedule(a, other, b, c, d)
    failed, done = planned.take(), planned.take()
    failure = Failure("it broke")
    assert [unit.tasks[0].key for unit, why in planned.failed(failed, failure) if why is failure] == [
        "b",
        "c",
    ]
    planned.succeeded(done)
    assert taken(planned) == ["d"]


def test_of_two_failures_the_more_severe_is_inherited() -> None:
    over, broken = Step("over"), Step("broken")
    both = Step("both", (over, broken))
    planned = schedule(over, broken, both)
    first, second = planned.take(), planned.take()
    assert list(planned.failed(first, Failure("too many passes", "budget"))) == []
    ((_, inherited),) = planned.failed(second, Failure("it broke"))
    assert inherited.reason == "it broke"


def test_a_unit_that_is_put_back_comes_again() -> None:
    planned = schedule(Step("a"))
    unit = planned.take()
    assert isinstance(unit, Unit)
    planned.put_back(unit)
    assert planned.take() is unit


def test_nothing_overtakes_a_unit_that_does_not_fit_yet() -> None:
    planned = schedule(Step("large", seconds=2), Step("small"), timed=True)
    assert planned.take(lambda unit: unit.tasks[0].key != "large") is None
    assert taken(planned) == ["large", "small"]


def test_any_plan_is_run_completely_and_in_order() -> None:
    chance = random.Random(0)
    for _ in range(50):
        tasks: list[Step] = []
        for number in range(chance.randrange(1, 40)):
            needed = tuple(chance.sample(tasks, min(len(tasks), chance.randrange(4))))
            tasks.append(Step(str(number), needed, chance.random()))
        planned, done, running = schedule(*tasks, timed=True), set[str](), list[Unit]()
        while True:
            while (unit := planned.take()) is not None:
                assert {need.key for need in unit.tasks[0].needs()} <= done
                running.append(unit)
            if not running:
                break
            unit = running.pop(chance.randrange(len(running)))
            done.add(unit.tasks[0].key)
            planned.succeeded(unit)
        assert len(done) == len(tasks)
