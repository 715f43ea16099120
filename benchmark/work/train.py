"""Training targets, sources and defenses."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from benchmark.errors import PluginError
from benchmark.keys import seed_from
from benchmark.plugin import Plugin
from benchmark.tasks import TrainDefense, TrainTarget
from benchmark.work.seeding import seeded
from benchmark.work.workshop import Stopwatch, Workshop, address


def train_target(task: TrainTarget, workshop: Workshop) -> None:
    """Train a classifier and store its weights with its validation error."""
    data = workshop.training_data(task.dataset)
    with seeded(seed_from("init", task.key)), Stopwatch(workshop.device) as watch:
        model = workshop.new_target(task).to(workshop.device).train()
        _listen(model, task, workshop)
        model.fit(data, _generator(task))
    model.eval()
    wrong = total = 0
    with torch.no_grad():
        for images, labels in data.validation_batches(task.protocol.shard_size):
            wrong += int((model(images).argmax(dim=1) != labels).sum())
            total += len(labels)
    _save(model, task, workshop, {"seconds": watch.seconds, "validation_error": wrong / max(1, total)})


def train_defense(task: TrainDefense, workshop: Workshop) -> None:
    """Train a purifier with its source classifier and store its weights."""
    data = workshop.training_data(task.dataset)
    source = copy.deepcopy(workshop.target(task.source))  # what fit() does to it reaches nobody else
    with seeded(seed_from("init", task.key)), Stopwatch(workshop.device) as watch:
        defense = workshop.new_defense(task.defense, task.dataset).to(workshop.device).train()
        _listen(defense, task, workshop)
        defense.fit(data, source, _generator(task))
    _save(defense, task, workshop, {"seconds": watch.seconds})


def _generator(task: TrainTarget | TrainDefense) -> torch.Generator:
    return torch.Generator().manual_seed(seed_from("fit", task.key))


def _listen(plugin: Plugin[Any], task: TrainTarget | TrainDefense, workshop: Workshop) -> None:
    def reporter(done: int, total: int, figures: Mapping[str, float]) -> None:
        for name, figure in figures.items():
            if not math.isfinite(figure):
                raise PluginError(
                    f"training {task.label} diverged: {name} is {figure} at step {done} of {total}"
                )
        workshop.on_training(task, done, total, figures)

    plugin.reporter = reporter


def _save(
    module: torch.nn.Module, task: TrainTarget | TrainDefense, workshop: Workshop, meta: dict[str, Any]
) -> None:
    weights = module.state_dict()
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise PluginError(f"training {task.label} diverged: weights {name} are not finite")
    workshop.store.put_tensors(address(task), weights, meta | {"task": task.content()})
