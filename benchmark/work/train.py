"""Training targets, sources and defenses."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark.datasets.contract import TrainingData
from benchmark.errors import PluginError, UserError
from benchmark.opened_files import unwatched, watching
from benchmark.plugin import NoCheckpoints, Plugin
from benchmark.store import Address, Store
from benchmark.tasks import SHARD_SIZE, TrainAttack, TrainDefense, TrainTarget
from benchmark.training import not_finite, weights_digest
from benchmark.work.given import answers, try_out
from benchmark.work.seeding import seeded
from benchmark.work.surface import make_surface
from benchmark.work.workshop import Stopwatch, Training, Workshop


def train_target(task: TrainTarget, workshop: Workshop) -> None:
    """Train a classifier and store its weights with its validation error; or try a given one out."""
    data = workshop.training_data(task.dataset)
    if not task.target.trainable:
        _take_given(task, data, workshop)
        return
    with seeded(task.seed_for("init")), Stopwatch(workshop.device) as watch:
        model = workshop.new_target(task).to(workshop.device).train()
        checkpoints = _attend(model, task, workshop)
        with checkpoints, watching("target", model):
            model.fit(data, _generator(task))
            model.eval()
            _check_classes(model, task, data)
            _check_weights(model, task, checkpoints.reached)
    meta = checkpoints.account(watch) | {"validation_error": _validation_error(model, data, task)}
    _save(model, task, workshop, meta)
    checkpoints.remove()


def _take_given(task: TrainTarget, data: TrainingData, workshop: Workshop) -> None:
    """Load a classifier that comes with its weights, see whether it can be used, and store what it is.

    The weights stay where they are: the store keeps their digest, and what the classifier says of noise.
    """
    with Stopwatch(workshop.device) as watch:
        model = workshop.given_target(task)
        try_out(model, data)
    meta = {
        "seconds": watch.seconds,
        "weights": weights_digest(model),
        "validation_error": _validation_error(model, data, task),
    }
    workshop.put_tensors(task, {"reference_logits": answers(model, workshop.device)}, meta)


def _validation_error(model: torch.nn.Module, data: TrainingData, task: TrainTarget) -> float | None:
    wrong = total = 0
    with torch.no_grad():
        for images, labels in data.validation_batches(SHARD_SIZE):
            wrong += int((model(images).argmax(dim=1) != labels).sum())
            total += len(labels)
    return wrong / total if total else None


def train_defense(task: TrainDefense, workshop: Workshop) -> None:
    """Train a purifier with its source classifier and store its weights."""
    data = workshop.training_data(task.dataset)
    source = copy.deepcopy(workshop.target(task.source))  # what fit() does to it reaches nobody else
    _check_classes(source, task.source, data)
    with seeded(task.seed_for("init")), Stopwatch(workshop.device) as watch:
        defense = workshop.new_defense(task.defense, task.dataset).to(workshop.device).train()
        checkpoints = _attend(defense, task, workshop)
        with checkpoints, watching("defense", defense):
            defense.fit(data, source, _generator(task))
            _check_weights(defense, task, checkpoints.reached)
    _save(defense, task, workshop, checkpoints.account(watch))
    checkpoints.remove()


def train_attack(task: TrainAttack, workshop: Workshop) -> None:
    """Train an attack against its surface and store its weights."""
    data = workshop.training_data(task.dataset)
    surface = make_surface(task.surface, task.dataset, workshop, task.seed_for("surface"))
    with seeded(task.seed_for("init")), Stopwatch(workshop.device) as watch:
        attack: Any = workshop.new_attack(task.attack, task.dataset)
        attack.to(workshop.device).train()
        checkpoints = _attend(attack, task, workshop)
        if task.surface.draws is not None:
            attack.checkpoints = NoCheckpoints()  # the draws of a random defense cannot be taken up again
        with checkpoints, watching("attack", attack):
            attack.fit(data, surface, _generator(task))
            _check_weights(attack, task, checkpoints.reached)
    _save(attack, task, workshop, checkpoints.account(watch))
    checkpoints.remove()


_NO_FAULT = (OSError, MemoryError, torch.OutOfMemoryError, UserError)


class _StoredCheckpoints:
    """The state of a training that is not at its end, in the store; gone when it has failed.

    Attributes:
        seconds: What went into the training before it was taken up here.
        reached: How far it is, in words.
        curve: The figures that it reported, by step.
    """

    def __init__(self, task: Training, store: Store) -> None:
        self._address = Address("checkpoint", task.label, task.key)
        self._store = store
        earlier = store.meta(self._address)
        self.seconds = 0.0 if earlier is None else float(earlier["seconds"])
        self.curve: list[dict[str, float]] = [] if earlier is None else earlier["curve"]
        self._begin = time.perf_counter()
        self.reached = "no step that was reported"

    def load(self) -> dict[str, Tensor] | None:
        with unwatched():
            return self._store.get_tensors(self._address)

    def save(self, state: Mapping[str, Tensor]) -> None:
        seconds = self.seconds + time.perf_counter() - self._begin
        with unwatched():
            self._store.replace_tensors(self._address, state, {"seconds": seconds, "curve": self.curve})

    def account(self, watch: Stopwatch) -> dict[str, Any]:
        """What the whole training took, and how it went."""
        return {"seconds": self.seconds + watch.seconds, "curve": self.curve}

    def remove(self) -> None:
        self._store.remove(self._address)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, _NO_FAULT) or not issubclass(kind, Exception | SystemExit):
            return  # over, or cut off: by the user, a full disk or memory, an unreadable image
        self.remove()


def _attend(plugin: Plugin[Any], task: Training, workshop: Workshop) -> _StoredCheckpoints:
    """Listen to a training, and keep its state."""

    def reporter(done: int, total: int, figures: Mapping[str, float]) -> None:
        checkpoints.reached = _when(done, total, figures)
        checkpoints.curve.append({"step": done, **figures})
        for name, figure in figures.items():
            if not math.isfinite(figure):
                raise PluginError(
                    f"training {task.label} diverged: {name} is {figure} in {checkpoints.reached}"
                )
        with unwatched():
            workshop.on_training(task, done, total, figures)

    plugin.reporter = reporter
    plugin.checkpoints = checkpoints = _StoredCheckpoints(task, workshop.store)
    return checkpoints


def _when(done: int, total: int, figures: Mapping[str, float]) -> str:
    epoch = f"epoch {figures['epoch']:.0f}, " if "epoch" in figures else ""
    return f"{epoch}step {done} of {total}"


def _generator(task: Training) -> torch.Generator:
    return torch.Generator().manual_seed(task.seed_for("fit"))


def _check_classes(classifier: torch.nn.Module, task: TrainTarget, data: TrainingData) -> None:
    image = torch.zeros((1, *data.image_shape), device=data.device)  # there may be none to train with
    with torch.no_grad():
        scores = classifier(image)
    if tuple(scores.shape) != (1, data.num_classes):
        raise PluginError(
            f"classifier {task.label} gives scores of shape {tuple(scores.shape)} for one image, "
            f"but {task.dataset.name} has {data.num_classes} classes"
        )


def _check_weights(module: torch.nn.Module, task: Training, reached: str) -> None:
    if (wrong := not_finite(module)) is not None:
        raise PluginError(f"training {task.label} diverged: weights {wrong} are not finite after {reached}")


def _save(module: torch.nn.Module, task: Training, workshop: Workshop, meta: dict[str, Any]) -> None:
    workshop.put_tensors(task, module.state_dict(), meta)
