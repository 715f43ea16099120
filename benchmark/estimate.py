"""What a plan will take, from the timings that the store kept of similar work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmark.keys import canonical
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
    known: dict[tuple[str, str], dict[str, float]] = {}
    seconds, unknown = 0.0, []
    for task in missing:
        data = _data(task)
        if data is None:
            continue  # probes and scores are small change
        if (task.kind, task.label) not in known:
            known[task.kind, task.label] = _typical(store, task.kind, task.label)
        typical = known[task.kind, task.label].get(data)
        if typical is None:
            unknown.append(task)
        else:
            seconds += typical
    return Estimate(seconds, tuple(unknown))


def _data(task: Task) -> str | None:
    """Which images the task is about, and at which size: two folders may have nothing in common."""
    if isinstance(task, TrainTarget | TrainDefense | TrainAttack):
        return _images(task.dataset.content)
    if isinstance(task, Craft | Purify):
        return _images(task.shard.dataset.content)
    return None


def _images(dataset: Mapping[str, Any]) -> str:
    return canonical({name: dataset[name] for name in ("name", "config", "images")})


def _typical(store: Store, kind: str, label: str) -> dict[str, float]:
    """Seconds that such a task took, by the images it was about."""
    timings: dict[str, list[float]] = {}
    for meta in store.samples(kind, label, limit=_SAMPLES):
        task = meta.get("task", {})
        dataset = task.get("dataset") or task.get("shard", {}).get("dataset", {})
        if dataset:
            timings.setdefault(_images(dataset), []).append(float(meta["seconds"]))
    return {images: median(seconds) for images, seconds in timings.items()}
