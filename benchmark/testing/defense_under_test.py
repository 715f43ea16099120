"""A defense on images of one shape: creates it, trains it for a few steps, and runs it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api.dataset import TensorSplit, TrainingData
from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.api.training import not_finite
from benchmark.errors import PluginError
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.plugins.opened_files import watching
from benchmark.plugins.plugin import Config

Shape = tuple[int, int, int]

CLASSES = 10
STEPS = 3
"""Number of steps after which a training is stopped."""

_IMAGES = 6
_IMAGES_WHEN_SLOW = 2
_SLOW = 1.0
"""Seconds for one image. A defense that takes longer is run as little as possible."""

_TRAINING_IMAGES = 32
_VALIDATION_IMAGES = 2


@dataclass(eq=False)
class DefenseUnderTest:
    """A defense and the images to run it on. Call `train`, then `assemble`, then `purify` as often as needed.

    Attributes:
        defense: The plugin.
        full: The purifier with the given parameters.
        module: The purifier that `purify` runs: `full` or, if that is slow, the one that attacks use.
        images: The images to purify, shape (B, C, H, W).
        first: The first of these images, purified.
        seconds: Time of `full` for one image.
        elapsed: Time of the last call of `purify`, in seconds.

    Raises:
        ValueError: The defense cannot accept images of this shape.
    """

    kind: type[Defense[Any]]
    config: Config
    shape: Shape
    device: torch.device

    def __post_init__(self) -> None:
        self.defense = self.make(0)

    def make(self, seed: int, config: Config | None = None) -> Defense[Any]:
        """Create an instance; the seed decides its random initial weights."""
        with seeded(seed), watching("defense", self.kind, config or self.config):
            return self.kind(config or self.config, self.shape, CLASSES).to(self.device)

    def train(self) -> str:
        """Train for a few steps, and describe the result."""
        before = {name: tensor.clone() for name, tensor in self.defense.state_dict().items()}
        done, total = self._fit()
        if (wrong := not_finite(self.defense)) is not None:
            raise PluginError(f"weights {wrong} are not finite after {done} steps")
        changed = sum(
            name not in before or not torch.equal(tensor, before[name])
            for name, tensor in self.defense.state_dict().items()
        )
        if not changed:
            raise PluginError("fit() changed no weights")
        if not total:
            raise PluginError("fit() did not call report(): its progress is not visible")
        excess = "" if done <= STEPS else f"; it continued past a step_limit of {STEPS}"
        return f"{done} steps changed {changed} of {len(before)} tensors{excess}"

    def _fit(self) -> tuple[int, int]:
        """Run `fit`; returns the number of finished steps and of all steps, as last reported."""
        last = (0, 0)

        def reporter(done: int, total: int, metrics: Mapping[str, float]) -> None:
            nonlocal last
            last = (done, total)
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise PluginError(f"{name} is {value} in step {done}")

        self.defense.step_limit = STEPS
        with seeded(0):
            source = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.shape), CLASSES))
            source.to(self.device).eval().requires_grad_(False)
            data = _training_data(self.shape, self.device)
            with watching("defense", self.defense), self.defense.training_with(reporter):
                self.defense.train().fit(data, source, torch.Generator().manual_seed(0))
        return last

    def assemble(self) -> None:
        """Create the purifier, and measure its time for one image."""
        self.full = self.module = PurifierModule([self.defense])
        self.images = _random_images(_IMAGES, self.shape).to(self.device)
        for _ in range(2):  # the first call may include setup, so the second one counts
            self.first = self.purify(self.images[:1])
            self.seconds = self.elapsed
            if self.slow:
                break
        if self.slow:
            self.images = self.images[:_IMAGES_WHEN_SLOW]
            with suppress(Exception):  # a check of its own finds faults of `in_attack`
                self.module = self.in_attack() or self.full

    @property
    def slow(self) -> bool:
        """Whether one image takes so long that the checks use fewer images."""
        return self.seconds >= _SLOW

    def in_attack(self) -> PurifierModule | None:
        """The purifier that attacks use, with the same weights; None if attacks use `full`."""
        cheaper = self.kind.in_attack(self.config)
        if cheaper is None:
            return None
        defense = self.make(0, cheaper)
        defense.load_state_dict(self.defense.state_dict())
        return PurifierModule([defense])

    @cached_property
    def reference(self) -> Tensor:
        """The purified images that other calls are compared with."""
        return self.purify(self.images)

    def purify(
        self,
        x: Tensor,
        indices: Sequence[int] | None = None,
        *,
        seed: int = 7,
        global_seed: int = 1,
        module: PurifierModule | None = None,
    ) -> Tensor:
        """Purify images (B, C, H, W) with a purifier, by default `self.module`.

        `indices` are those of the images in the stream of noise, by default 0 to B − 1. The seed of the
        global generators must have no effect.
        """
        module = self._reset(module or self.module, x, indices, seed)
        with torch.no_grad(), seeded(global_seed), Stopwatch(self.device) as watch:
            output: Tensor = module(x)
        self.elapsed = watch.seconds
        return output

    def decide(self) -> tuple[Tensor, Tensor | None]:
        """The purified images, and the labels that the defense decides on."""
        module = self._reset(self.module, self.images, None, 7)
        with torch.no_grad(), seeded(1):
            return module.purify_and_decide(self.images)

    @cached_property
    def differentiated(self) -> tuple[Tensor, Tensor | None]:
        """The images purified with gradients on, and a gradient with respect to them if there is one."""
        x = self.images.clone().requires_grad_()
        module = self._reset(self.module, x, None, 7)
        with torch.enable_grad(), seeded(1):
            output = module(x)
            if not output.requires_grad:
                return output, None
            weights = torch.linspace(-1, 1, output.numel(), device=x.device).reshape(output.shape)
            (gradient,) = torch.autograd.grad((output * weights).sum(), x, allow_unused=True)
        return output.detach(), gradient

    def _reset(
        self, module: PurifierModule, x: Tensor, indices: Sequence[int] | None, seed: int
    ) -> PurifierModule:
        """Set the noise of a purifier, and clear the state that it may keep from call to call."""
        if module is not self.full:
            module.forget()  # only the setting for attacks may keep state
        module.noise = Noise(seed, range(len(x)) if indices is None else indices)
        return module

    def time(self, count: int) -> float:
        """Time of `full` for a batch of `count` images, in seconds."""
        self.purify(_random_images(count, self.shape).to(self.device), module=self.full)
        return self.elapsed


def _training_data(shape: Shape, device: torch.device) -> TrainingData:
    """Random images with labels of all classes."""
    order = torch.arange(_TRAINING_IMAGES + _VALIDATION_IMAGES)
    everything = TensorSplit(_random_images(len(order), shape), order % CLASSES)
    train = everything.subset(order[:_TRAINING_IMAGES])
    validation = everything.subset(order[_TRAINING_IMAGES:])
    return TrainingData(train, validation, shape, CLASSES, device)


def _random_images(count: int, shape: Shape) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(3))
