"""Training classifiers, defenses and attacks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api.dataset import TrainingData
from benchmark.api.training import not_finite, weights_digest
from benchmark.errors import PluginError, UserError
from benchmark.execution.context import ExecutionContext, Training
from benchmark.execution.pretrained import check_pretrained, reference_logits
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.execution.surfaces import make_surface
from benchmark.plan.tasks import SHARD_SIZE, TrainAttack, TrainDefense, TrainTarget
from benchmark.plugins.opened_files import unwatched, watching
from benchmark.storage.store import Address


def train_target(task: TrainTarget, context: ExecutionContext) -> None:
    """Train a classifier and store its weights and validation error, or check a pretrained classifier."""
    data = context.training_data(task.dataset)
    if not task.target.trainable:
        _check_and_store_pretrained(task, data, context)
        return

    def fit(model: Any, generator: torch.Generator) -> None:
        model.fit(data, generator)
        model.eval()
        _check_classes(model, task, data)

    _train("target", task, context, partial(context.new_target, task), fit)


def _check_and_store_pretrained(task: TrainTarget, data: TrainingData, context: ExecutionContext) -> None:
    """Store the digest of the weights and the logits for fixed noise; the weights stay in their files."""
    with Stopwatch(context.device) as watch:
        model = context.pretrained_target(task)
        check_pretrained(model, data)
    meta = {"seconds": watch.seconds, "weights": weights_digest(model)}
    meta["validation_error"] = validation_error(model, data)
    context.put_tensors(task, {"reference_logits": reference_logits(model, context.device)}, meta)


def validation_error(model: nn.Module, data: TrainingData) -> float | None:
    """The error rate on the validation images; None if there are no validation images."""
    wrong = total = 0
    with torch.no_grad():
        for images, labels in data.validation_batches(SHARD_SIZE):
            wrong += int((model(images).argmax(dim=1) != labels).sum())
            total += len(labels)
    return wrong / total if total else None


def train_defense(task: TrainDefense, context: ExecutionContext) -> None:
    """Train a purifier with its source classifier and store its weights."""
    data = context.training_data(task.dataset)
    source = copy.deepcopy(context.target(task.source))  # changes by fit() must not reach other tasks
    _check_classes(source, task.source, data)
    make = partial(context.new_defense, task.defense, task.dataset)
    _train("defense", task, context, make, lambda defense, generator: defense.fit(data, source, generator))


def train_attack(task: TrainAttack, context: ExecutionContext) -> None:
    """Train an attack against its surface and store its weights."""
    data = context.training_data(task.dataset)
    surface = make_surface(task.surface, task.dataset, context, task.seed_for("surface"))

    def make() -> Any:
        return context.new_attack(task.attack, task.dataset)

    # cannot resume against a random defense, which would draw other noise
    resumable = task.surface.draws is None
    _train("attack", task, context, make, lambda a, g: a.fit(data, surface, g), resumable=resumable)


def _train(
    kind: str,
    task: Training,
    context: ExecutionContext,
    make: Callable[[], Any],
    fit: Callable[[Any, torch.Generator], None],
    *,
    resumable: bool = True,
) -> None:
    """Make a plugin, fit it, and store its weights, for a classifier with its validation error."""
    with seeded(task.seed_for("init")), Stopwatch(context.device) as watch:
        plugin = make().to(context.device).train()
        session = _TrainingSession(task, context)
        attached = plugin.training_with(session.report, session if resumable else None)
        with session, attached, watching(kind, plugin):
            fit(plugin, torch.Generator().manual_seed(task.seed_for("fit")))
            if (wrong := not_finite(plugin)) is not None:
                fault = f"weights {wrong} are not finite after {session.progress}"
                raise PluginError(f"training {task.label} diverged: {fault}")
    meta = {"seconds": session.seconds + watch.seconds, "curve": session.curve}
    if isinstance(task, TrainTarget):
        meta["validation_error"] = validation_error(plugin, context.training_data(task.dataset))
    context.put_tensors(task, plugin.state_dict(), meta)
    session.remove()


_RESUMABLE = (OSError, MemoryError, torch.OutOfMemoryError, UserError)
"""Errors that are not the plugin's fault: a full disk or memory, an unreadable image."""


class _TrainingSession:
    """What a training reports, and its unfinished state in the store; a fault of the plugin removes that.

    Attributes:
        seconds: Time that earlier runs spent on the training.
        progress: The last reported step, in words.
        curve: The reported losses and rates, by step.
    """

    def __init__(self, task: Training, context: ExecutionContext) -> None:
        self._task = task
        self._address = Address("checkpoint", task.label, task.key)
        self._store = context.store
        self._on_training = context.on_training
        earlier = self._store.meta(self._address)
        self.seconds = 0.0 if earlier is None else float(earlier["seconds"])
        self.curve: list[dict[str, float]] = [] if earlier is None else earlier["curve"]
        self._begin = time.perf_counter()
        self.progress = "no reported step"

    def report(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Receive a report of the plugin; a value that is not finite is a fault."""
        epoch = f"epoch {figures['epoch']:.0f}, " if "epoch" in figures else ""
        self.progress = f"{epoch}step {done} of {total}"
        self.curve.append({"step": done, **figures})
        for name, value in figures.items():
            if not math.isfinite(value):
                fault = f"{name} is {value} in {self.progress}"
                raise PluginError(f"training {self._task.label} diverged: {fault}")
        with unwatched():
            self._on_training(self._task, done, total, figures)

    def load(self) -> dict[str, Tensor] | None:
        with unwatched():
            return self._store.get_tensors(self._address)

    def save(self, state: Mapping[str, Tensor]) -> None:
        seconds = self.seconds + time.perf_counter() - self._begin
        with unwatched():
            self._store.replace_tensors(self._address, state, {"seconds": seconds, "curve": self.curve})

    def remove(self) -> None:
        self._store.remove(self._address)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, _RESUMABLE) or not issubclass(kind, Exception | SystemExit):
            return  # finished, or interrupted by the user or by something outside the plugin
        self.remove()


def _check_classes(classifier: nn.Module, task: TrainTarget, data: TrainingData) -> None:
    image = torch.zeros((1, *data.image_shape), device=data.device)  # works without training images
    with torch.no_grad():
        scores = classifier(image)
    if tuple(scores.shape) != (1, data.num_classes):
        found = f"returns scores of shape {tuple(scores.shape)} for one image"
        expected = f"{task.dataset.name} has {data.num_classes} classes"
        raise PluginError(f"classifier {task.label} {found}, but {expected}")
