"""The units of work as data: what each depends on, and the key that follows from it.

A task holds no tensor and does nothing. Its key is the hash of all that its result depends on; what
does not change the result (device, crafting batch, executor, paths, time) is not in it.
"""

from benchmark.tasks.base import SHARD_SIZE, Once, Protocol, Shard, Task
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
    "Protocol",
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
