"""Predicts the seconds of a task on the machine on which the table `costs.csv` was measured.

`python -m studies.costs` (`make costs`) writes the table. A prediction is the number of images, times the
passes of the attack, times the cost of one pass through the target and the purifiers. A plugin that the table
does not have costs what the row with the name `*` of its part says.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import ceil, prod
from pathlib import Path
from typing import Any

from benchmark.plan import tasks
from benchmark.plan.specs import DatasetSpec
from benchmark.plan.tasks import PurifierSpec, Shard, SurfaceSpec, Task, TrainTarget, surface_forms

TABLE = Path(__file__).with_name("costs.csv")
COLUMNS = ("part", "name", "value", "unit", "pixels")
ANY = "*"

_AMOUNTS = ("steps", "restarts", "search_steps", "iterations", "samples", "classes")
"""Parameters that multiply the work of attacks and purifiers."""

_EPOCHS, _BATCH_SIZE = 2, 64
"""Assumed for a training whose parameters name none."""

_JACOBIAN_SIZES = (150, 300, 600, 1200, 2400)
_VALIDATION_SHARE = 1 / 11
"""Validation images per training image: a substitute is trained on the validation images."""


def amount_of_work(config: Mapping[str, Any]) -> float:
    """The product of the parameters that multiply the work of a plugin, such as steps and restarts."""
    warm = config.get("warm_iterations")  # iterations from an earlier result, in place of all iterations
    amounts = config if warm is None else {**config, "iterations": warm}
    return float(prod(n for name in _AMOUNTS if isinstance(n := amounts.get(name), int | float) and n > 0))


def trained_images(config: Mapping[str, Any], train_size: int) -> float:
    """The images that a training reads, counted once per step."""
    batch_size = config.get("batch_size") or _BATCH_SIZE
    steps = config.get("steps")
    if "epochs" not in config and isinstance(steps, int):
        return float(steps * batch_size)
    per_epoch = max(1, ceil(train_size / batch_size))
    epochs = max(config.get("epochs") or _EPOCHS, ceil((config.get("min_steps") or 0) / per_epoch))
    adversarial = config.get("adversarial")
    passes = 1 + adversarial.get("steps", 1) if isinstance(adversarial, Mapping) else 1
    return float(epochs * per_epoch * batch_size * passes)


class CostTable:
    """The costs of plugins and of kinds of tasks, from the rows of a table."""

    def __init__(self, rows: Iterable[Mapping[str, str]]) -> None:
        self._values: dict[tuple[str, str], float] = {}
        self._pixels: dict[tuple[str, str], float] = {}
        for row in rows:
            place = row["part"], row["name"]
            self._values[place] = float(row["value"])
            self._pixels[place] = float(row["pixels"] or 0)

    @property
    def calibration(self) -> float:
        """The seconds of the calibration on the machine on which the table was measured."""
        return self._values["calibration", ANY]

    def knows(self, part: str, name: str) -> bool:
        return (part, name) in self._values

    def seconds(self, task: Task) -> float:
        """The predicted seconds of a task on the machine of the table."""
        return self._values.get(("overhead", task.kind), self._values["overhead", ANY]) + self._work(task)

    def surface(self, surface: SurfaceSpec, dataset: DatasetSpec) -> float:
        """Seconds of one pass of one image through a surface and back."""
        target = self._part("target", surface.target.target.name, dataset)
        if surface.purifier is None or surface.form == surface_forms.TARGET:
            return target
        cheap = (surface_forms.BPDA_IDENTITY, surface_forms.BPDA_NETWORK, surface_forms.QUERY)
        part = "purify" if surface.form in cheap else "purify-gradient"
        return (surface.draws or 1) * (target + self.purifier(surface.purifier, dataset, part))

    def purifier(self, purifier: PurifierSpec, dataset: DatasetSpec, part: str = "purify") -> float:
        """Seconds of one pass of one image through a purifier; `purify-gradient` includes the way back."""
        return sum(
            self._part(part, stage.name, dataset)
            * amount_of_work({n: v for n, v in stage.config.items() if n not in stage.train_fields})
            for stage in purifier.runs
        )

    def _part(self, part: str, name: str, dataset: DatasetSpec) -> float:
        place = (part, name) if (part, name) in self._values else (part, ANY)
        return self._values[place] / 1000 * self._image_size(dataset) / self._pixels[place]

    def _image_size(self, dataset: DatasetSpec) -> float:
        size = dataset.config.get("size")
        if isinstance(size, int):
            return 3.0 * size * size
        place = ("training images", dataset.name)
        return self._pixels.get(place) or self._pixels["training images", ANY]

    def _train_size(self, dataset: DatasetSpec) -> int:
        known = self._values.get(("training images", dataset.name))
        return int(known or 5 * dataset.test_size or self._values["training images", ANY])

    def _work(self, task: Task) -> float:
        if isinstance(task, tasks.Craft):
            return len(task.shard.indices) * self._craft(task)
        if isinstance(task, tasks.Purify):
            return len(task.shard.indices) * self.purifier(task.purifier, task.shard.dataset)
        if isinstance(task, tasks.Score):
            return self._score(task)
        if isinstance(task, tasks.ConvergenceSearch):
            return self._search(task)
        if isinstance(task, TrainTarget | tasks.TrainDefense | tasks.TrainAttack):
            return self._training(task)
        if isinstance(task, tasks.PurifiedSet | tasks.TrainBpdaNetwork):
            return task.count * self.purifier(task.purifier, task.dataset)
        return self._passes(task.kind) * self._check(task)

    def _passes(self, kind: str) -> float:
        return self._values.get(("passes", kind), self._values["passes", ANY])

    def _attack(self, name: str) -> float:
        return self._values.get(("attack", name), self._values["attack", ANY])

    def _craft(self, task: tasks.Craft) -> float:
        passes = self._attack(task.attack.name) * amount_of_work(task.attack.config)
        searched = self._passes("converged-craft") if task.convergence is not None else 1.0
        return searched * passes * self.surface(task.surface, task.shard.dataset)

    def _search(self, task: tasks.ConvergenceSearch) -> float:
        passes = self._attack(task.attack.name) * amount_of_work(task.attack.config)
        surfaces = sum(self.surface(surface, task.shard.dataset) for surface in task.surfaces)
        return len(task.shard.indices) * passes * surfaces * self._passes(task.kind)

    def _score(self, task: tasks.Score) -> float:
        dataset, draws = task.shard.dataset, len(task.clean_judged)
        through_target = (len(task.candidates) + len(task.baseline) + 2 * draws + 4) * self._part(
            "target", task.target.target.name, dataset
        )
        through_purifier = (draws + 1) * self.purifier(task.purifier, dataset)
        images = len(task.shard.indices)
        return images * (through_target + through_purifier) * self._passes(task.kind)

    def _check(self, task: Task) -> float:
        """Seconds of all images of a check, each once through what the check runs."""
        if isinstance(task, tasks.GradientProbe):
            return len(task.shard.indices) * self.surface(task.surface, task.shard.dataset)
        if isinstance(task, tasks.FiniteDifferenceCheck):
            return len(task.shard.indices) * self.surface(task.surfaces[0], task.shard.dataset)
        if isinstance(task, tasks.ConsistencyCheck):
            return self._pipeline(task.target, task.purifier, task.shard)
        if isinstance(task, tasks.RandomSearch):
            score = task.score
            return task.samples * self._pipeline(score.target, score.purifier, score.shard)
        return 0.0

    def _pipeline(self, target: TrainTarget, purifier: PurifierSpec, shard: Shard) -> float:
        one = self._part("target", target.target.name, shard.dataset) + self.purifier(purifier, shard.dataset)
        return len(shard.indices) * one

    def _training(self, task: TrainTarget | tasks.TrainDefense | tasks.TrainAttack) -> float:
        train_size = self._train_size(task.dataset)
        if isinstance(task, tasks.TrainDefense):
            per_image = self._part("train-defense", task.defense.name, task.dataset)
            return per_image * trained_images(task.defense.config, train_size)
        if isinstance(task, tasks.TrainAttack):
            passes = self._values.get(("train-attack", task.attack.name), self._values["train-attack", ANY])
            one = self.surface(task.surface, task.dataset)
            return passes * one * trained_images(task.attack.config, train_size)
        target = task.target
        if not target.trainable:
            return train_size * _VALIDATION_SHARE * self._part("target", target.name, task.dataset)
        passes = self._values.get(("train-target", target.name), self._values["train-target", ANY])
        per_image = passes * self._part("target", target.name, task.dataset)
        if not isinstance(task, tasks.TrainSubstitute):
            return per_image * trained_images(target.config, train_size)
        own = _JACOBIAN_SIZES if task.how == "jacobian" else (ceil(train_size * _VALIDATION_SHARE),)
        images = sum(trained_images(target.config, size) for size in own)
        return per_image * images + own[-1] * self.surface(task.oracle, task.dataset)


@lru_cache(maxsize=1)
def shipped_table() -> CostTable:
    """The table that comes with the package."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return CostTable(csv.DictReader(file))
