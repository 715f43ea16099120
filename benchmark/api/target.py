"""The base classes of targets: classifiers that the harness trains, and pretrained ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from benchmark.api.dataset import TrainingData
from benchmark.plugins.opened_files import watching
from benchmark.plugins.plugin import ConfigT, Plugin, named
from benchmark.plugins.trust import Trust


class Target(Plugin[ConfigT], nn.Module, ABC, Generic[ConfigT]):
    """A classifier: images (B, C, H, W), float32 in [0, 1], to logits (B, classes).

    It normalises its input itself and has no softmax at the end. Build the layers in `__init__`.

    Raises:
        ValueError: The architecture cannot take images of this shape (C, H, W).

    Attributes:
        trainable: Whether the harness calls `fit`; if False it calls `load`, see `PretrainedTarget`.
    """

    trainable: ClassVar[bool] = True

    def __init__(self, config: ConfigT, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config)
        self.image_shape = image_shape
        self.num_classes = num_classes

    @abstractmethod
    def fit(self, data: TrainingData, generator: torch.Generator) -> None:
        """Train the weights in place, and call `self.report(...)` now and then.

        The harness seeds torch's global generators, so that initialisation and dropout are reproducible.
        `generator` (on the CPU) is for all explicit random numbers.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, classes)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with watching("target", self):
            return super().__call__(*args, **kwargs)

    @classmethod
    def rests_on(cls, config: Any, trusted: Trust) -> Mapping[str, str]:
        """Values that replace parameters in result keys, such as a digest of the code that a name refers to.

        Called before any cell runs, so it should also refuse parameters that cannot be used.

        Raises:
            benchmark.errors.UserError: A file is missing, or needs the user's trust and does not have it.
        """
        return {}


class PretrainedTarget(Target[ConfigT]):
    """A classifier that comes with its weights: the harness calls `load` instead of `fit`."""

    trainable = False

    def fit(self, data: TrainingData, generator: torch.Generator) -> None:
        raise NotImplementedError(f"{self.name} comes with its weights")

    @property
    def origin(self) -> str:
        """Where the classifier comes from, for messages: a file, or a factory."""
        return self.name

    @abstractmethod
    def load(self, trusted: Trust) -> None:
        """Make the layers, with their weights, on the CPU.

        Raises:
            benchmark.errors.PluginError: The classifier cannot be loaded; names the file and the cause.
        """


TargetT = TypeVar("TargetT", bound=type[Target[Any]])


def target(name: str) -> Callable[[TargetT], TargetT]:
    """Register the decorated `Target` under `name`: a literal, since it is read from the source text."""
    return named("target", Target, name)
