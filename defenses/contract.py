"""What a defense (a purifier in front of a classifier) owes the harness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import ConfigT, Plugin, named

Scorer = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to class scores (B, classes)."""


@dataclass(frozen=True)
class Surrogate:
    """A differentiable stand-in for a pipeline.

    Attributes:
        scores: Images to class scores.
        encode: Images to latents (B, …) of images near them; None where there is no latent space.
        decode: Latents to images in [0, 1].
    """

    scores: Scorer
    encode: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None


class Defense(Plugin[ConfigT], nn.Module, ABC, Generic[ConfigT]):
    """A purifier: images to images of the same shape, float32 in [0, 1].

    State the facts below, build the layers in `__init__`, implement `purify`, and `fit` when
    `trainable`. The harness owns devices, seeds, evaluation mode, weights and checks.

    Facts:
        trainable: `fit` has to run before `purify` is of use.
        stochastic: Two calls may differ. All randomness must come from `noise`.
        inner_optimisation: `purify` runs an optimisation loop.
        control: A placebo, which claims nothing; the yardstick of the real defenses.
        surrogates: Names of differentiable stand-ins for the pipeline, which `surrogate` makes: maps from
            images to class scores such that what fools them tends to fool the pipeline. They are attacked
            in addition to the pipeline itself, never in its place.
        latents: The name of another one, with a latent space, for attacks that search there.
        decides_label: It classifies the image on its way; see `purify_and_decide`.
        gate: How much clean error (a fraction) training may add before the row is marked
            `purifier-not-trained`; `gates` has other figures for data sets by name.

    Args:
        config: The typed parameters.
        image_shape: (C, H, W) of the images.
        num_classes: Number of classes.

    Raises:
        ValueError: The images are of a shape that the purifier cannot take.
    """

    trainable: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    inner_optimisation: ClassVar[bool] = False
    control: ClassVar[bool] = False
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

    def purify_and_decide(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """What `purify` gives, and the defense's own label of each image (B,), int64.

        Only called where `decides_label`; `purify(x, noise)` must give the same images.
        """
        raise NotImplementedError(f"{type(self).__name__} says that it decides labels but does not say how")

    def surrogate(self, name: str, target: Scorer, noise: Noise) -> Surrogate:
        """The stand-in of that name; only called for `surrogates` and `latents`.

        Args:
            name: One of `surrogates`, or `latents`.
            target: What comes after this purifier: images to class scores.
            noise: For whatever it draws.
        """
        raise NotImplementedError(f"{type(self).__name__} names surrogates but makes none")

    @classmethod
    def in_attack(cls, config: ConfigT) -> ConfigT | None:
        """A cheaper setting that attacks run, where the real one is too dear for each of their steps.

        It may differ in `infer` fields only. What is found with it is judged by the real setting, and
        the row is marked `cheap-surface`. None: attacks run the real one.
        """
        return None

    def forget(self) -> None:
        """Drop what earlier calls left behind; called before each attack.

        Only the setting that `in_attack` gives may keep anything from one call to the next.
        """


DefenseT = TypeVar("DefenseT", bound=type[Defense[Any]])


def defense(name: str) -> Callable[[DefenseT], DefenseT]:
    """Register the decorated `Defense` under `name` (a literal: it is read without importing)."""
    return named("defense", Defense, name)
