"""The function that runs each kind of task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from benchmark.execution import (
    convergence,
    craft,
    diagnostics,
    external_images_task,
    purified_set,
    score,
    substitute,
    train,
    train_bpda_network,
)
from benchmark.execution.context import ExecutionContext, LostResultError
from benchmark.plan import tasks
from benchmark.plugins.fingerprint import fingerprint

T = TypeVar("T")

FUNCTIONS: dict[type[tasks.Task], Callable[..., None]] = {
    tasks.TrainTarget: train.train_target,
    tasks.TrainDefense: train.train_defense,
    tasks.TrainSubstitute: substitute.train_substitute,
    tasks.TrainAttack: train.train_attack,
    tasks.PurifiedSet: purified_set.fill_purified_set,
    tasks.TrainBpdaNetwork: train_bpda_network.train_bpda_network,
    tasks.ConvergenceSearch: convergence.search_convergence,
    tasks.ExternalImages: external_images_task.missing_images,
    tasks.GradientProbe: craft.probe_gradient,
    tasks.Craft: craft.craft,
    tasks.Purify: score.purify,
    tasks.Score: score.score,
    tasks.ConsistencyCheck: diagnostics.check_consistency,
    tasks.FiniteDifferenceCheck: diagnostics.check_finite_differences,
    tasks.RandomSearch: diagnostics.search_random_points,
}


def perform(task: tasks.Task, context: ExecutionContext, *others: tasks.Task) -> None:
    """Run a task and store its result. Needed results that the store has lost are computed first.

    `others` are the other crafts of the same sweep, which one call of the attack serves.
    """

    def run() -> None:
        with context.recording():
            FUNCTIONS[type(task)](task, context, *others)

    recompute_lost(run, context)


def recompute_lost(action: Callable[[], T], context: ExecutionContext) -> T:
    """Do something that reads stored results; if one is lost or damaged, compute it and start again.

    Raises:
        LostResultError: The store loses a result again that was just computed.
    """
    recomputed: set[str] = set()
    while True:
        try:
            return action()
        except LostResultError as error:
            if error.task.key in recomputed:
                raise
            lost = error.task
        recomputed.add(lost.key)
        with torch.enable_grad():  # the caller may have disabled gradients, but the task may need them
            perform(lost, context)


def code_of(kind: type[tasks.Task]) -> str:
    """The fingerprint of the code that runs this kind of task, and of everything that it imports."""
    module = sys.modules[FUNCTIONS[kind].__module__]
    assert module.__file__ is not None
    return fingerprint(Path(module.__file__), module.__name__)
