"""What a plan will take, from the timings that the store kept of similar work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmark.keys import canonical
from benchmark.refs import DatasetRef
from benchmark.store import Store
from benchmark.tasks import Craft, Purify, Task, TrainAttack, TrainDefense, TrainTarget

_SAMPLES = 12


@dataclass(frozen=True)
class Estimate:
    """Seconds of the work whose like was timed before, and the number of tasks of unknown length."""

    seconds: float
    unknown: tuple[Task, ...]


def estimate(missing: Iterable[Task], store: Store) -> Estimate:
    """The median of earlier timings of the same plugin on the same data set, for each task."""
    alike: dict[tuple[str, str, DatasetRef], list[Task]] = {}
    for task in missing:
        dataset = _dataset(task)
        if dataset is not None:  # probes and scores are small change
            alike.setdefault((task.kind, task.label, dataset), []).append(task)
    places = {(kind, label) for kind, label, _ in alike}
    typical = {place: _typical(store, *place) for place in places}
    seconds, unknown = 0.0, []
    for (kind, label, dataset), tasks in alike.items():
        known = typical[kind, label].get(_images(dataset.content))
        if known is None:
            unknown += tasks
        else:
            seconds += known * len(tasks)
    return Estimate(seconds, tuple(unknown))


def _dataset(task: Task) -> DatasetRef | None:
    if isinstance(task, Craft | Purify):
        return task.shard.dataset
    if isinstance(task, TrainTarget | TrainDefense | TrainAttack):
        return task.dataset
    return None


def _images(dataset: Mapping[str, Any]) -> str:
    """Which images a data set has, and at which size: two folders may have nothing in common."""
    return canonical({name: dataset[name] for name in ("name", "config", "images")})


def _typical(store: Store, kind: str, label: str) -> dict[str, float]:
    """Seconds that such a task took, by the images it was about."""
    timings: dict[str, list[float]] = {}
    for meta in store.samples(kind, label, limit=_SAMPLES):
        task = meta.get("task", {})
        dataset = task.get("dataset") or task.get("shard", {}).get("dataset", {})
        if dataset and "zoo" not in meta:  # another machine's time
            timings.setdefault(_images(dataset), []).append(float(meta["seconds"]))
    return {images: median(seconds) for images, seconds in timings.items()}
