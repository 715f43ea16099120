"""The units of work as data: what each depends on, and the key that follows from it.

A task holds no tensor and does nothing. Its key is the hash of what its result is declared to depend on:
versions of plugins and of kinds of tasks, parameters that differ from their defaults, digests of data and
files, seeds, and keys of other tasks. Code, libraries, the device, paths and time are not in it: each
stored result notes those that it was made with.
"""

from benchmark.tasks.base import SHARD_SIZE, Once, Shard, Task
from benchmark.tasks.checking import Examine, NoiseSearch, Slope
from benchmark.tasks.crafting import (
    Bank,
    Craft,
    Effort,
    Handed,
    Mimic,
    Probe,
    SurfaceSpec,
    TrainAttack,
    TrainSubstitute,
)
from benchmark.tasks.scoring import Candidate, Purify, Score
from benchmark.tasks.training import Part, Purifier, TrainDefense, TrainTarget

__all__ = [
    "SHARD_SIZE",
    "Bank",
    "Candidate",
    "Craft",
    "Effort",
    "Examine",
    "Handed",
    "Mimic",
    "NoiseSearch",
    "Once",
    "Part",
    "Probe",
    "Purifier",
    "Purify",
    "Score",
    "Shard",
    "Slope",
    "SurfaceSpec",
    "Task",
    "TrainAttack",
    "TrainDefense",
    "TrainSubstitute",
    "TrainTarget",
]
