"""Units of work as data: what each result depends on, and the key derived from that.

A task holds no tensor and does no work. Its key is the hash of everything that its result is declared to
depend on: versions of plugins and of task kinds, parameters that differ from their defaults, digests of
data and files, seeds, and keys of other tasks. Code, libraries, the device, paths and time are not part of
the key; each stored result records those that it was made with.
"""

from benchmark.plan.tasks import surface_forms
from benchmark.plan.tasks.base import SHARD_SIZE, Interner, Shard, Task
from benchmark.plan.tasks.crafting import (
    ConvergenceSearch,
    Craft,
    ExternalImages,
    GradientProbe,
    PurifiedSet,
    SurfaceSpec,
    TrainAttack,
    TrainBpdaNetwork,
    TrainSubstitute,
)
from benchmark.plan.tasks.scoring import (
    Candidate,
    ConsistencyCheck,
    FiniteDifferenceCheck,
    Purify,
    RandomSearch,
    Score,
)
from benchmark.plan.tasks.training import PurifierSpec, PurifierStage, TrainDefense, TrainTarget

__all__ = [
    "SHARD_SIZE",
    "TASK_TYPES",
    "Candidate",
    "ConsistencyCheck",
    "ConvergenceSearch",
    "Craft",
    "ExternalImages",
    "FiniteDifferenceCheck",
    "GradientProbe",
    "Interner",
    "PurifiedSet",
    "PurifierSpec",
    "PurifierStage",
    "Purify",
    "RandomSearch",
    "Score",
    "Shard",
    "SurfaceSpec",
    "Task",
    "TrainAttack",
    "TrainBpdaNetwork",
    "TrainDefense",
    "TrainSubstitute",
    "TrainTarget",
    "surface_forms",
]

TASK_TYPES: tuple[type[Task], ...] = tuple(
    member
    for member in list(globals().values())
    if isinstance(member, type) and issubclass(member, Task) and member is not Task
)
"""Every kind of task."""
