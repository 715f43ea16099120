"""The figures of a training that can be measured again: a classifier's error, what a defense adds to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.purifier import PurifierModule
from benchmark.tasks import SHARD_SIZE
from benchmark.zoo_index import Gate

_GATE_IMAGES = 200
_GATE_IMAGES_WHEN_SLOW = 32


def error_of(classifier: nn.Module, data: TrainingData) -> float | None:
    """The share of the validation images that a classifier gets wrong; None if there are no images."""
    wrong = total = 0
    with torch.no_grad():
        for images, labels in data.validation_batches(SHARD_SIZE):
            wrong += _wrong(classifier(images), labels)
            total += len(labels)
    return wrong / total if total else None


def measure_gate(
    purifier: PurifierModule,
    source: nn.Module,
    data: TrainingData,
    *,
    limit: float,
    slow: bool,
    count: int | None = None,
) -> Gate | None:
    """The clean error that a purifier adds to the classifier that it was trained with.

    Args:
        purifier: The purifier, in evaluation mode.
        source: The classifier, in evaluation mode.
        data: Its validation images are used, and the noise of a random purifier is fixed by their numbers.
        limit: The most that may be added, a fraction.
        slow: Whether purifying is an optimisation, so that fewer images have to do.
        count: How many images, if that is given.

    Returns:
        None if there are no validation images.
    """
    count = min(count or (_GATE_IMAGES_WHEN_SLOW if slow else _GATE_IMAGES), len(data.validation))
    without = behind = 0
    for start in range(0, count, SHARD_SIZE):
        chosen = torch.arange(start, min(start + SHARD_SIZE, count))
        images = data.validation.take(chosen).to(data.device)
        labels = data.validation.labels[chosen].to(data.device)
        purifier.noise = Noise(0, chosen.tolist())
        purifier.forget()
        purified = purifier(images).detach()  # gradients stay on: some purifiers optimise
        with torch.no_grad():
            without += _wrong(source(images), labels)
            behind += _wrong(source(purified), labels)
    return Gate(limit=limit, added=(behind - without) / count, images=count) if count else None


def _wrong(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(dim=1) != labels).sum())
