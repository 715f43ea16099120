"""The base class of defenses: purifiers in front of a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from benchmark.api.dataset import TrainingData
from benchmark.api.noise import Noise
from benchmark.plugins.plugin import ConfigT, Plugin, named

Scorer = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to class scores (B, classes)."""


@dataclass(frozen=True)
class Surrogate:
    """A differentiable replacement of a pipeline, which attacks use in addition to the pipeline.

    `encode` maps images to latents (B, …) whose images are near them, `decode` maps latents to images in
    [0, 1]; None without a latent space.
    """

    scores: Scorer
    encode: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None


class Defense(Plugin[ConfigT], nn.Module, ABC, Generic[ConfigT]):
    """A purifier: images to images of the same shape, float32 in [0, 1].

    State the attributes below, build the layers in `__init__`, implement `purify`, and `fit` if `trainable`.
    The harness handles devices, seeds, evaluation mode, weights and checks.

    Raises:
        ValueError: The purifier cannot take images of this shape (C, H, W).

    Attributes:
        trainable: `fit` has to run before `purify`.
        stochastic: Two calls may differ. All randomness must come from `noise`.
        inner_optimisation: `purify` runs an optimisation loop.
        control: A placebo, to compare real defenses with.
        is_identity: `purify` returns its input. White-box and gray-box attacks then leave out the routes that
            replace the gradient of a purifier. Every call is checked.
        surrogates: Names of the surrogates that `surrogate` makes. Adversarial examples of a surrogate
            should tend to fool the pipeline. Surrogates are attacked in addition to the pipeline itself.
        latents: The name of a surrogate that has a latent space, for attacks that search there.
        decides_label: The defense classifies the images too; implements `purify_and_decide`.
        gate: How much clean error (a fraction) a trained defense may add. With more, the row gets the doubt
            `purifier-not-trained`.
        gates: Other values of `gate`, by data set.
    """

    trainable: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    inner_optimisation: ClassVar[bool] = False
    control: ClassVar[bool] = False
    is_identity: ClassVar[bool] = False
    surrogates: ClassVar[tuple[str, ...]] = ()
    latents: ClassVar[str | None] = None
    decides_label: ClassVar[bool] = False
    gate: ClassVar[float] = 0.05
    gates: ClassVar[Mapping[str, float]] = {}

    def __init__(self, config: ConfigT, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config)
        self.image_shape = image_shape
        self.num_classes = num_classes

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        """Train the weights in place; only called if `trainable`.

        Args:
            data: Training and validation images; the test images are not accessible.
            source: A frozen classifier (images to logits), for adversarial examples or a classification
                loss. It is not the target, unless the grid says so.
            generator: On the CPU, for all explicit random numbers; torch's global generators are seeded.
        """
        raise NotImplementedError(f"{type(self).__name__} is trainable but has no fit()")

    @abstractmethod
    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        """Purified images of the shape of `x`, float32 in [0, 1]; must not change `x` in place."""

    def purify_and_decide(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """The images that `purify` returns, and labels (B,), int64; only called if `decides_label`."""
        raise NotImplementedError(f"{type(self).__name__} decides labels but has no purify_and_decide()")

    def surrogate(self, name: str, target: Scorer, noise: Noise) -> Surrogate:
        """The surrogate of that name (one of `surrogates`, or `latents`); `noise` is the only randomness.

        `target` is the rest of the pipeline after this purifier.
        """
        raise NotImplementedError(f"{type(self).__name__} names surrogates but has no surrogate()")

    @classmethod
    def in_attack(cls, config: ConfigT) -> ConfigT | None:
        """Cheaper parameters for attacks, if the real ones are too slow for each attack step; None if not.

        Only `infer` fields may differ. The adversarial examples are evaluated with the real parameters, and
        the row gets the doubt `cheap-surface`.
        """
        return None

    def forget(self) -> None:
        """Reset state that earlier calls left; called before each attack, each shard and each draw.

        A purifier may keep state between calls only with the parameters of `in_attack`.
        """


DefenseT = TypeVar("DefenseT", bound=type[Defense[Any]])


def defense(name: str) -> Callable[[DefenseT], DefenseT]:
    """Register the decorated `Defense` under `name`: a literal, since it is read from the source text."""
    return named("defense", Defense, name)
