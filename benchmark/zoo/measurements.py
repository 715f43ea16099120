"""Measures the validation error of a classifier, and the clean error that a purifier adds to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.api.dataset import TrainingData
from benchmark.api.noise import Noise
from benchmark.execution.purifier import PurifierModule
from benchmark.plan.tasks import SHARD_SIZE
from benchmark.storage.zoo_index import Gate

_GATE_IMAGES = 200
_GATE_IMAGES_WHEN_SLOW = 32


def validation_error(classifier: nn.Module, data: TrainingData) -> float | None:
    """The fraction of the validation images that a classifier misclassifies; None without images."""
    errors = total = 0
    with torch.no_grad():
        for images, labels in data.validation_batches(SHARD_SIZE):
            errors += _count_errors(classifier(images), labels)
            total += len(labels)
    return errors / total if total else None


def measure_gate(
    purifier: PurifierModule,
    source: nn.Module,
    data: TrainingData,
    *,
    limit: float,
    slow: bool,
    count: int | None = None,
) -> Gate | None:
    """Measure the clean error that a purifier adds to its source classifier; None without validation images.

    Args:
        purifier: The purifier, in evaluation mode.
        source: The classifier, in evaluation mode.
        data: Provides the validation images; their indices fix the noise of a random purifier.
        limit: The maximum that may be added, a fraction.
        slow: Whether purifying is an optimisation; then fewer images are used.
        count: The number of images, instead of the default.
    """
    count = min(count or (_GATE_IMAGES_WHEN_SLOW if slow else _GATE_IMAGES), len(data.validation))
    unpurified = purified = 0
    for start in range(0, count, SHARD_SIZE):
        indices = torch.arange(start, min(start + SHARD_SIZE, count))
        images = data.validation.take(indices).to(data.device)
        labels = data.validation.labels[indices].to(data.device)
        purifier.reset(Noise(0, indices.tolist()))
        outputs = purifier(images).detach()  # with gradients: some purifiers optimise
        with torch.no_grad():
            unpurified += _count_errors(source(images), labels)
            purified += _count_errors(source(outputs), labels)
    return Gate(limit=limit, added=(purified - unpurified) / count, images=count) if count else None


def _count_errors(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(dim=1) != labels).sum())
