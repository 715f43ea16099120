"""What a defense (a purifier in front of a classifier) owes the harness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import ConfigT, Plugin, named


class Defense(Plugin[ConfigT], nn.Module, ABC, Generic[ConfigT]):
    """A purifier: images to images of the same shape, float32 in [0, 1].

    State the facts below, build the layers in `__init__`, implement `purify`, and `fit` when
    `trainable`. The harness owns devices, seeds, evaluation mode, weights and checks.

    Facts:
        trainable: `fit` has to run before `purify` is of use.
        stochastic: Two calls may differ. All randomness must come from `noise`.
        inner_optimisation: `purify` runs an optimisation loop.
        control: A placebo, which claims nothing; the yardstick of the real defenses.
        gate: How much clean error (a fraction) training may add before the row is marked
            `purifier-not-trained`.

    Args:
        config: The typed parameters.
        image_shape: (C, H, W) of the images.

    Raises:
        ValueError: The images are of a shape that the purifier cannot take.
    """

    trainable: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    inner_optimisation: ClassVar[bool] = False
    control: ClassVar[bool] = False
    gate: ClassVar[float] = 0.05

    def __init__(self, config: ConfigT, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config)
        self.image_shape = image_shape

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        """Train the weights in place; only called when `trainable`.

        Args:
            data: Training and validation images; the test images are out of reach.
            source: A frozen classifier (images to logits) to make adversarial images with or to take
                label losses from. It is not the target, unless the grid says so.
            generator: On the CPU, for everything drawn explicitly; torch's global generators are
                seeded by the harness.
        """
        raise NotImplementedError(f"{type(self).__name__} says that it is trainable but has no fit()")

    @abstractmethod
    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        """Purified images of the shape of `x`, float32 in [0, 1]; must not change `x` in place."""


DefenseT = TypeVar("DefenseT", bound=type[Defense[Any]])


def defense(name: str) -> Callable[[DefenseT], DefenseT]:
    """Register the decorated `Defense` under `name` (a literal: it is read without importing)."""
    return named("defense", Defense, name)
