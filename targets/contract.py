"""What a target (a classifier under protection) owes the harness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.plugin import ConfigT, Plugin, named


class Target(Plugin[ConfigT], nn.Module, ABC, Generic[ConfigT]):
    """A classifier: images (B, C, H, W), float32 in [0, 1], to logits (B, classes).

    Normalisation lives inside; no softmax at the end. Build the layers in `__init__`.

    Args:
        config: The typed parameters.
        image_shape: (C, H, W) of the images.
        num_classes: Number of classes.

    Raises:
        ValueError: The images are of a shape that the architecture cannot take.
    """

    def __init__(self, config: ConfigT, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config)
        self.image_shape = image_shape
        self.num_classes = num_classes

    @abstractmethod
    def fit(self, data: TrainingData, generator: torch.Generator) -> None:
        """Train the weights in place. Call `self.report(...)` now and then.

        Torch's global generators are seeded by the harness, so initialisation and dropout are
        reproducible; `generator` (on the CPU) is for everything drawn explicitly.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, classes)."""


TargetT = TypeVar("TargetT", bound=type[Target[Any]])


def target(name: str) -> Callable[[TargetT], TargetT]:
    """Register the decorated `Target` under `name` (a literal: it is read without importing)."""
    return named("target", Target, name)
