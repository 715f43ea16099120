"""What a target (a classifier under protection) owes the harness: trained here, or given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.opened_files import watching
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

    Attributes:
        trainable: Whether the harness calls `fit`; where it is False, it calls `load`.
    """

    trainable: ClassVar[bool] = True

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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with watching("target", self):
            return super().__call__(*args, **kwargs)

    @classmethod
    def rests_on(cls, config: Any, trusted: Collection[Path]) -> Mapping[str, str]:
        """What stands for parameters in the classifier's identity: the content of a file for its name.

        Asked before anything runs, so it is the place to refuse what cannot be used.

        Args:
            config: The typed parameters.
            trusted: What the user trusts to run code: files, as resolved paths. The harness hands over a
                `benchmark.trust.Trust`, which knows the trusted packages as well.

        Returns:
            Digests by the names of parameters.

        Raises:
            benchmark.errors.UserError: A file is missing, or is not trusted and would have to be.
        """
        return {}


class GivenTarget(Target[ConfigT]):
    """A classifier that comes with its weights: `load` is called in place of `fit`."""

    trainable = False

    def fit(self, data: TrainingData, generator: torch.Generator) -> None:
        raise NotImplementedError(f"{self.name} comes with its weights")

    @property
    def origin(self) -> str:
        """What it was made from, for messages: a file, or a factory."""
        return self.name

    @abstractmethod
    def load(self, trusted: Collection[Path]) -> None:
        """Make the layers, with their weights, on the CPU.

        Args:
            trusted: As in `rests_on`.

        Raises:
            benchmark.errors.PluginError: It cannot be done; names the file and the cause.
        """


TargetT = TypeVar("TargetT", bound=type[Target[Any]])


def target(name: str) -> Callable[[TargetT], TargetT]:
    """Register the decorated `Target` under `name` (a literal: it is read without importing)."""
    return named("target", Target, name)
