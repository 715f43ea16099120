"""Purifying training images for attacks that use them."""

from __future__ import annotations

import torch

from benchmark.api.noise import Noise
from benchmark.errors import PluginError
from benchmark.execution.context import ExecutionContext
from benchmark.execution.stopwatch import Stopwatch
from benchmark.plan.tasks import PurifiedSet

_BATCH = 100


def fill_purified_set(task: PurifiedSet, context: ExecutionContext) -> None:
    """Store purified training images of all classes."""
    purifier = context.purifier(task.purifier, task.dataset)
    data = context.training_data(task.dataset)
    indices = balanced_indices(data.train.labels, task.count)
    seed, purified = task.seed_for("purify"), []
    with torch.no_grad(), Stopwatch(context.device) as watch:
        for batch in indices.split(_BATCH):  # type: ignore[no-untyped-call]
            purifier.reset(Noise(seed, batch.tolist()))
            purified.append(purifier(data.take(batch)[0]).cpu())
    tensors = {"images": torch.cat(purified), "labels": data.train.labels[indices]}
    context.put_tensors(task, tensors, {"seconds": watch.seconds, "images": len(indices)})


def balanced_indices(labels: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the first images of each class: `count` in total, rounded up to equal numbers."""
    if not len(labels):
        raise PluginError("white-box attacks use training images, but this data set has no training images")
    classes = labels.unique()  # type: ignore[no-untyped-call]
    per_class = max(1, -(-count // len(classes)))
    return torch.cat([(labels == label).nonzero().flatten()[:per_class] for label in classes])
