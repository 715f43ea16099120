"""One defense on images of one shape, as the conformance suite examines it: made, trained a little, run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import TensorSplit, TrainingData
from benchmark.errors import PluginError
from benchmark.noise import Noise
from benchmark.opened_files import watching
from benchmark.plugin import Config
from benchmark.purifier import PurifierModule
from benchmark.training import not_finite
from benchmark.work.seeding import seeded
from benchmark.work.workshop import Stopwatch
from defenses.contract import Defense

Shape = tuple[int, int, int]

CLASSES = 10
STEPS = 3
"""How many steps a training is cut off after."""

_IMAGES = 6
_IMAGES_WHEN_SLOW = 2
_SLOW = 1.0
"""Seconds for one image, from which on as little as possible is run."""

_TRAINING_IMAGES = 32
_VALIDATION_IMAGES = 2


class Specimen:
    """A defense with its images. `train`, then `assemble`, then `purify` as often as is needed.

    Attributes:
        defense: The plugin itself.
        full: The purifier with the setting to be examined.
        module: The purifier that `purify` runs: `full`, or what `in_attack` gives where that one is slow.
        images: What is purified.
        seconds: How long `full` takes for one image.
        lap: How long the last call of `purify` took.

    Args:
        kind: The class of the defense.
        config: Its parameters.
        shape: (C, H, W) of the images.
        device: Where it runs.

    Raises:
        ValueError: It cannot take images of that shape.
    """

    def __init__(self, kind: type[Defense[Any]], config: Config, shape: Shape, device: torch.device) -> None:
        self.kind = kind
        self.config = config
        self.shape = shape
        self.device = device
        self.defense = self.make(0)

    def make(self, seed: int, config: Config | None = None) -> Defense[Any]:
        """A fresh instance, with other random weights for another seed."""
        with seeded(seed), watching("defense", self.kind, config or self.config):
            return self.kind(config or self.config, self.shape, CLASSES).to(self.device)

    def restart(self) -> None:
        """Go back to an untrained instance."""
        self.defense = self.make(0)

    def train(self) -> str:
        """Cut a training off after a few steps; returns what it did.

        Raises:
            PluginError: It changed no weights, made some that are not finite, or reported nothing.
        """
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
            raise PluginError("fit() called no report(): nobody sees how far it is")
        heeded = "" if done <= STEPS else f"; it ran on, past a step_limit of {STEPS}"
        return f"{done} steps changed {changed} of {len(before)} tensors{heeded}"

    def _fit(self) -> tuple[int, int]:
        """Steps done and steps in all, as last reported."""
        last = (0, 0)

        def reporter(done: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal last
            last = (done, total)
            for name, figure in figures.items():
                if not math.isfinite(figure):
                    raise PluginError(f"{name} is {figure} in step {done}")

        self.defense.reporter = reporter
        self.defense.step_limit = STEPS
        with seeded(0):
            source = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.shape), CLASSES))
            source.to(self.device).eval().requires_grad_(False)
            data = _training_data(self.shape, self.device)
            with watching("defense", self.defense):
                self.defense.train().fit(data, source, torch.Generator().manual_seed(0))
        return last

    def assemble(self) -> None:
        """Make the purifier, and measure it on one image.

        Raises:
            PluginError: It raised, or returned what is no image like its input.
        """
        self.full = self.module = PurifierModule([self.defense])
        self.images = self._draw(_IMAGES)
        for _ in range(2):  # what the first call sets up is not counted
            self.first = self.purify(self.images[:1])
            self.seconds = self.lap
            if self.slow:
                break
        if self.slow:
            self.images = self.images[:_IMAGES_WHEN_SLOW]
            with suppress(Exception):  # what is wrong with in_attack is found where it is checked
                self.module = self.in_attack() or self.full

    @property
    def slow(self) -> bool:
        """Whether an image takes so long that the checks must be sparing."""
        return self.seconds >= _SLOW

    def in_attack(self) -> PurifierModule | None:
        """The purifier that attacks run, with the weights of this one; None where it is this one."""
        cheaper = self.kind.in_attack(self.config)
        if cheaper is None:
            return None
        defense = self.make(0, cheaper)
        defense.load_state_dict(self.defense.state_dict())
        return PurifierModule([defense])

    @cached_property
    def reference(self) -> Tensor:
        """The images purified, which other calls are compared with."""
        return self.purify(self.images)

    def purify(
        self,
        x: Tensor,
        indices: Sequence[int] | None = None,
        *,
        seed: int = 7,
        world: int = 1,
        module: PurifierModule | None = None,
    ) -> Tensor:
        """Purified images.

        Args:
            x: Images.
            indices: Which noise each of them meets; by default, that of its place.
            seed: Of the noise.
            world: Seed of the global generators, which must not matter.
            module: The purifier, by default `module`.
        """
        module = self._prepared(module or self.module, x, indices, seed)
        with torch.no_grad(), seeded(world), Stopwatch(self.device) as watch:
            output: Tensor = module(x)
        self.lap = watch.seconds
        return output

    def decide(self) -> tuple[Tensor, Tensor | None]:
        """The images purified together with the defense's own labels."""
        module = self._prepared(self.module, self.images, None, 7)
        with torch.no_grad(), seeded(1):
            return module.purify_and_decide(self.images)

    @cached_property
    def differentiated(self) -> tuple[Tensor, Tensor | None]:
        """The images purified with gradients on, and a gradient at them where there is any."""
        x = self.images.clone().requires_grad_()
        module = self._prepared(self.module, x, None, 7)
        with torch.enable_grad(), seeded(1):
            output = module(x)
            if not output.requires_grad:
                return output, None
            weights = torch.linspace(-1, 1, output.numel(), device=x.device).reshape(output.shape)
            (gradient,) = torch.autograd.grad((output * weights).sum(), x, allow_unused=True)
        return output.detach(), gradient

    def _prepared(
        self, module: PurifierModule, x: Tensor, indices: Sequence[int] | None, seed: int
    ) -> PurifierModule:
        if module is not self.full:
            module.forget()  # a setting for attacks may keep what it likes from call to call
        module.noise = Noise(seed, range(len(x)) if indices is None else indices)
        return module

    def _draw(self, count: int) -> Tensor:
        return _random_images(count, self.shape).to(self.device)

    def time(self, count: int) -> float:
        """Seconds for a batch of that many images."""
        self.purify(self._draw(count), module=self.full)
        return self.lap


def _training_data(shape: Shape, device: torch.device) -> TrainingData:
    """Random images of all classes."""
    images = _random_images(_TRAINING_IMAGES + _VALIDATION_IMAGES, shape)
    everything = TensorSplit(images, torch.arange(len(images)) % CLASSES)
    order = torch.arange(len(images))
    train, validation = (
        everything.subset(part) for part in (order[:_TRAINING_IMAGES], order[_TRAINING_IMAGES:])
    )
    return TrainingData(train, validation, shape, CLASSES, device)


def _random_images(count: int, shape: Shape) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(3))
