"""The function that runs each kind of task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

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
from benchmark.execution.context import ExecutionContext
from benchmark.plan import tasks
from benchmark.plugins.fingerprint import fingerprint

_FUNCTIONS: dict[type[tasks.Task], Callable[..., None]] = {
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

KINDS: tuple[type[tasks.Task], ...] = tuple(_FUNCTIONS)
"""Every kind of task."""


def perform(task: tasks.Task, context: ExecutionContext, *others: tasks.Task) -> None:
    """Run a task and store its result. The results that it needs must be in the store.

    `others` are the other crafts of the same sweep, which one call of the attack serves.
    """
    with context.recording():
        _FUNCTIONS[type(task)](task, context, *others)


def code_of(kind: type[tasks.Task]) -> str:
    """The fingerprint of the code that runs this kind of task, and of everything that it imports."""
    module = sys.modules[_FUNCTIONS[kind].__module__]
    assert module.__file__ is not None
    return fingerprint(Path(module.__file__), module.__name__)
