"""Which work belongs to which kind of task."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from benchmark.code import normalised, release
from benchmark.errors import PluginError
from benchmark.keys import digest
from benchmark.tasks import (
    Bank,
    Craft,
    Effort,
    Examine,
    Handed,
    Mimic,
    NoiseSearch,
    Probe,
    Protocol,
    Purify,
    Score,
    Slope,
    Task,
    TrainAttack,
    TrainDefense,
    TrainSubstitute,
    TrainTarget,
)
from benchmark.work import check, craft, effort, mimic, score, substitute, surface, train
from benchmark.work.workshop import Workshop


def _gone(task: Handed, workshop: Workshop) -> None:
    raise PluginError(f"images handed in from {task.origin} are not in the store: hand them in again")


_WORK: dict[type[Task], Callable[[Any, Workshop], None]] = {
    TrainTarget: train.train_target,
    TrainDefense: train.train_defense,
    TrainSubstitute: substitute.train_substitute,
    TrainAttack: train.train_attack,
    Bank: surface.fill_bank,
    Mimic: mimic.teach,
    Effort: effort.find_effort,
    Handed: _gone,
    Probe: craft.probe,
    Craft: lambda task, workshop: craft.craft([task], workshop),
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
    _WORK[type(task)](task, workshop)


def perform_sweep(tasks: list[Craft], workshop: Workshop) -> None:
    """Do crafts of one sweep in a single call of their attack."""
    craft.craft(tasks, workshop)


_TRAINING = ("benchmark/work/train.py", "benchmark/work/seeding.py")
_SURFACES = (
    "benchmark/work/scale.py",
    "benchmark/work/surface.py",
    "benchmark/threats/surfaces.py",
    "benchmark/noise.py",
    "benchmark/purifier.py",
    "attacks/gradients.py",
)
_MIMIC = "benchmark/threats/mimic.py"
_CRAFTING = (
    "benchmark/work/craft.py",
    _MIMIC,
    "benchmark/work/seeding.py",
    *_SURFACES,
)
_CHECKING = (
    "benchmark/work/check.py",
    "benchmark/work/score.py",
    "benchmark/work/seeding.py",
    "attacks/ball.py",
    _MIMIC,
    *_SURFACES,
)
_SCORING = (
    "benchmark/work/score.py",
    "benchmark/work/seeding.py",
    "benchmark/purifier.py",
    "benchmark/noise.py",
)

_CODE: dict[str, tuple[str, ...]] = {
    "train-target": _TRAINING,
    "train-defense": _TRAINING,
    "train-attack": (*_TRAINING, *_SURFACES),
    "train-substitute": ("benchmark/work/substitute.py", *_TRAINING, *_SURFACES),
    "bank": _SURFACES,
    "mimic": ("benchmark/work/mimic.py", "benchmark/work/seeding.py", _MIMIC, *_SURFACES),
    "handed": (),
    "probe": _CRAFTING,
    "effort": ("benchmark/work/effort.py", "benchmark/stats.py", *_CRAFTING),
    "craft": _CRAFTING,
    "purify": _SCORING,
    "examine": _CHECKING,
    "slope": _CHECKING,
    "noise-search": _CHECKING,
    "score": (*_SCORING, "benchmark/metrics.py", "attacks/gradients.py"),
}
"""The harness's own files that each kind of result depends on.

A craft with an effort rests on its key, and so on the code that finds efforts.
"""

_LIBRARIES = ("torchmetrics",)
"""Libraries that the harness measures with."""


@cache
def protocol() -> Protocol:
    """The harness's part in every key: what this release of it does for each kind of task."""
    from pathlib import Path

    import attacks
    import benchmark

    roots = {"benchmark": Path(benchmark.__file__).parent, "attacks": Path(attacks.__file__).parent}
    code = {}
    for kind, files in _CODE.items():
        paths = [roots[file.partition("/")[0]] / file.partition("/")[2] for file in files]
        code[kind] = digest([normalised(path) for path in paths] + [release(name) for name in _LIBRARIES])
    return Protocol(code)
