"""Estimates the time of a plan from timings of similar tasks in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from benchmark.plan.specs import DatasetSpec
from benchmark.plan.tasks import Craft, Purify, Task, TrainAttack, TrainDefense, TrainTarget
from benchmark.storage.keys import canonical
from benchmark.storage.store import Store

_SAMPLES = 12


def estimate(missing: Iterable[Task], store: Store) -> tuple[float, list[Task]]:
    """Total seconds of the tasks that have earlier timings, and the tasks that have none.

    Each task is estimated by the median of earlier timings of the same plugin on the same data set.
    """
    groups: dict[tuple[str, str, DatasetSpec], list[Task]] = {}
    for task in missing:
        dataset = _dataset(task)
        if dataset is not None:  # checks and scores take little time
            groups.setdefault((task.kind, task.label, dataset), []).append(task)
    plugins = {(kind, label) for kind, label, _ in groups}
    medians = {plugin: _median_seconds(store, *plugin) for plugin in plugins}
    seconds, unknown = 0.0, list[Task]()
    for (kind, label, dataset), tasks in groups.items():
        known = medians[kind, label].get(_image_key(dataset.content))
        if known is None:
            unknown += tasks
        else:
            seconds += known * len(tasks)
    return seconds, unknown


def _dataset(task: Task) -> DatasetSpec | None:
    if isinstance(task, Craft | Purify):
        return task.shard.dataset
    if isinstance(task, TrainTarget | TrainDefense | TrainAttack):
        return task.dataset
    return None


def _image_key(dataset: Mapping[str, Any]) -> str:
    """Identifies the images of a data set and their size: data sets of one name may have different images."""
    return canonical({name: dataset[name] for name in ("name", "config", "images")})


def _median_seconds(store: Store, kind: str, label: str) -> dict[str, float]:
    """Median seconds of tasks of a kind with a plugin, by the images that they used."""
    timings: dict[str, list[float]] = {}
    for metadata in store.samples(kind, label, limit=_SAMPLES):
        task = metadata.get("task", {})
        dataset = task.get("dataset") or task.get("shard", {}).get("dataset", {})
        if dataset and "zoo" not in metadata:  # weights from the zoo were trained on another machine
            timings.setdefault(_image_key(dataset), []).append(float(metadata["seconds"]))
    return {images: median(seconds) for images, seconds in timings.items()}
