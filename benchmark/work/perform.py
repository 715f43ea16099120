"""Which work belongs to which kind of task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.code import fingerprint
from benchmark.tasks import (
    Bank,
    Craft,
    Effort,
    Examine,
    Handed,
    Mimic,
    NoiseSearch,
    Probe,
    Purify,
    Score,
    Slope,
    Task,
    TrainAttack,
    TrainDefense,
    TrainSubstitute,
    TrainTarget,
)
from benchmark.work import check, craft, effort, external, mimic, score, substitute, surface, train
from benchmark.work.workshop import Workshop

_WORK: dict[type[Task], Callable[[Any, Workshop], None]] = {
    TrainTarget: train.train_target,
    TrainDefense: train.train_defense,
    TrainSubstitute: substitute.train_substitute,
    TrainAttack: train.train_attack,
    Bank: surface.fill_bank,
    Mimic: mimic.teach,
    Effort: effort.find_effort,
    Handed: external.missing_images,
    Probe: craft.probe,
    Craft: craft.craft_alone,
    Purify: score.purify,
    Score: score.score,
    Examine: check.examine,
    Slope: check.slope,
    NoiseSearch: check.search_noise,
}


def perform(task: Task, workshop: Workshop) -> None:
    """Do a task and store its result; what it needs is in the store already.

    Raises:
        PluginError: A plugin broke its contract or raised.
    """
    with workshop.recording():
        _WORK[type(task)](task, workshop)


def perform_sweep(tasks: list[Craft], workshop: Workshop) -> None:
    """Do crafts of one sweep in a single call of their attack."""
    with workshop.recording():
        craft.craft(tasks, workshop)


KINDS: tuple[type[Task], ...] = tuple(_WORK)
"""Every kind of task."""


def code_of(task: Task) -> str:
    """The fingerprint of the code that does this kind of task, and of all that it imports."""
    return code_of_kind(type(task))


def code_of_kind(kind: type[Task]) -> str:
    """As `code_of`, of a kind of tasks."""
    module = sys.modules[_WORK[kind].__module__]
    assert module.__file__ is not None
    return fingerprint(Path(module.__file__), module.__name__)
