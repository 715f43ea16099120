"""What tasks cost: one model for the order of tasks, the time left of a run, and the time of a dry run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmark.execution.calibration import calibration_seconds
from benchmark.execution.cost_table import CostTable, shipped_table
from benchmark.plan import tasks
from benchmark.plan.specs import DatasetSpec
from benchmark.plan.tasks import Craft, Task, TrainTarget
from benchmark.storage.keys import canonical
from benchmark.storage.store import Store

_SAMPLES = 24
_ENOUGH_SECONDS, _LARGEST_RATIO = 5.0, 4.0
_APART = ("shard", "images", "seed", "draw", "start", "clean", "role", "source", "count", "dataset")
"""Entries of a task's content that hardly change its time, or that are compared in another way."""


@dataclass
class _Sums:
    """Seconds that some tasks took, and seconds that were predicted for them without having measured any."""

    measured: float = 0.0
    predicted: float = 0.0

    def add(self, measured: float, predicted: float) -> None:
        self.measured += measured
        self.predicted += predicted

    @property
    def ratio(self) -> float:
        return self.measured / self.predicted


class CostModel:
    """Expected seconds of tasks, from the best source that there is.

    In this order: the mean of equal tasks in this run; timings of equal tasks in the store; the table of the
    package, scaled by a short calibration. Tasks of the same kind, plugin and data set, or else of the same
    kind, or else all tasks that were measured in this run correct the prediction of tasks that were not.

    Args:
        store: Provides the timings of earlier runs; None for none.
        planned: The tasks of the run. Crafts of one sweep among them share one call of the attack.
        table: Costs of plugins and kinds of tasks; by default the table of the package.
        calibration: Seconds of the calibration on this machine; by default it is measured when needed.
    """

    def __init__(
        self,
        store: Store | None = None,
        planned: Iterable[Task] = (),
        *,
        table: CostTable | None = None,
        calibration: float | None = None,
    ) -> None:
        self._table = table or shipped_table()
        self._calibration = calibration
        self._timings = None if store is None else _StoredTimings(store)
        self._sweeps: Counter[str | None] = Counter(
            task.sweep
            for task in planned
            if isinstance(task, Craft) and task.attack.shares_sweep and task.sweep is not None
        )
        self._predictions: dict[tuple[Any, ...], float] = {}
        self._measured: dict[tuple[Any, ...], _Sums] = {}
        self._all = _Sums()

    def seconds(self, task: Task) -> float:
        """The expected seconds of a task; of a craft of a shared call, its share of the call."""
        group = _group(task)
        predicted = self._predicted(task, group)
        if not self._measured:
            return predicted
        for place in (group, _place(task)):
            if (sums := self._measured.get(place)) is not None:
                return predicted * sums.ratio
        of_kind = self._measured.get((task.kind,))
        return predicted * (self._overall_ratio if of_kind is None else of_kind.ratio)

    @property
    def _overall_ratio(self) -> float:
        """How much slower this run is than predicted, for kinds of which it has measured no task yet."""
        if self._all.measured < _ENOUGH_SECONDS:
            return 1.0
        return min(max(self._all.ratio, 1 / _LARGEST_RATIO), _LARGEST_RATIO)

    def observe(self, task: Task, seconds: float) -> None:
        """Learn from a task that took so many seconds in this run."""
        group = _group(task)
        predicted = max(self._predicted(task, group), 1e-9)
        for place in (group, _place(task), (task.kind,)):
            self._measured.setdefault(place, _Sums()).add(seconds, predicted)
        self._all.add(seconds, predicted)

    def _predicted(self, task: Task, group: tuple[Any, ...]) -> float:
        """The seconds without what was measured in this run."""
        whole = self._predictions.get(group)
        if whole is None:
            whole = self._predictions[group] = self._look_up(task)
        if self._sweeps and isinstance(task, Craft) and task.attack.shares_sweep:
            return whole / max(1, self._sweeps.get(task.sweep, 1))
        return whole

    def _look_up(self, task: Task) -> float:
        stored = None if self._timings is None else self._timings.seconds(task, self._table)
        return self._scale * self._table.seconds(task) if stored is None else stored

    @property
    def _scale(self) -> float:
        if self._calibration is None:
            self._calibration = calibration_seconds()
        return self._calibration / self._table.calibration


class _StoredTimings:
    """Timings in a store, read once for each kind and plugin."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._samples: dict[tuple[str, str], dict[str, list[float]]] = {}

    def seconds(self, task: Task, table: CostTable) -> float | None:
        """The median of equal tasks, scaled by the number of images; None if there is none.

        For a plugin that the table does not have, all tasks of its kind on the data set count as equal.
        """
        dataset = _dataset(task)
        if dataset is None:
            return None
        samples = self._samples_of(task.kind, task.label)
        if not samples:
            return None
        known = samples.get(_fingerprint(task.content(), dataset.content))
        if known is None and not any(
            table.knows(part, task.label) for part in ("attack", "purify", task.kind)
        ):
            known = samples.get(_images_of(dataset.content))
        return None if known is None else median(known) * _image_count(task)

    def _samples_of(self, kind: str, label: str) -> dict[str, list[float]]:
        """Seconds per image, by the content of the task and by its data set."""
        samples = self._samples.get((kind, label))
        if samples is None:
            samples = self._samples[kind, label] = {}
            for metadata in self._store.samples(kind, label, limit=_SAMPLES):
                content = metadata.get("task", {})
                dataset = content.get("dataset") or content.get("shard", {}).get("dataset")
                # weights from the zoo were trained on another machine
                if dataset and "seconds" in metadata and "zoo" not in metadata:
                    shard = content.get("shard")
                    images = shard["stop"] - shard["start"] if shard else 1
                    seconds = float(metadata["seconds"]) / max(images, 1)
                    for place in (_fingerprint(content, dataset), _images_of(dataset)):
                        samples.setdefault(place, []).append(seconds)
        return samples


def _group(task: Task) -> tuple[Any, ...]:
    """Equal for tasks that are expected to take equally long. Specs are compared by identity."""
    if isinstance(task, Craft):
        searched = task.convergence is not None
        return ("craft", task.attack, task.surface, _images(task), task.start is None, searched)
    if isinstance(task, tasks.Purify):
        return ("purify", task.purifier, _images(task), task.images is None)
    if isinstance(task, tasks.Score):
        counts = len(task.candidates), len(task.baseline), len(task.clean_judged)
        return ("score", task.purifier, task.target, _images(task), *counts)
    if isinstance(task, tasks.GradientProbe):
        return (task.kind, task.surface, _images(task))
    if isinstance(task, tasks.ConsistencyCheck):
        return (task.kind, task.purifier, task.target, _images(task))
    return (task.kind, task)  # few of each


def _place(task: Task) -> tuple[Any, ...]:
    dataset = _dataset(task)
    return (task.kind, task.label, dataset)


def _images(task: Any) -> tuple[DatasetSpec, int]:
    shard = task.shard
    return shard.dataset, shard.stop - shard.start


def _image_count(task: Task) -> int:
    shard = getattr(task, "shard", None)
    return 1 if shard is None else shard.stop - shard.start


def _dataset(task: Task) -> DatasetSpec | None:
    if isinstance(task, tasks.RandomSearch):
        return task.score.shard.dataset
    trainings = TrainTarget | tasks.TrainDefense | tasks.TrainAttack
    if isinstance(task, trainings | tasks.PurifiedSet | tasks.TrainBpdaNetwork):
        return task.dataset
    shard = getattr(task, "shard", None)
    return None if shard is None else shard.dataset


def _images_of(dataset: Mapping[str, Any]) -> str:
    """Identifies the images of a data set and their size: data sets of one name may have different images."""
    return canonical({name: dataset[name] for name in ("name", "config", "images")})


def _fingerprint(content: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    """Equal for tasks that differ in nothing that changes their time much, such as the seed."""
    kept = {name: value for name, value in content.items() if name not in _APART}
    return canonical(kept) + _images_of(dataset)
