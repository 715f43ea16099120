"""Small trained classifiers of digits, with images, for the tests of attacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api.attack import Attack
from benchmark.api.dataset import TrainingData
from benchmark.api.noise import Noise
from benchmark.datasets.digits import Digits
from benchmark.execution.surfaces import MeteredSurface
from benchmark.plugins.plugin import Config


class Scaled(nn.Module):
    """Multiplies the logits by a factor: a more or less confident classifier with the same predictions."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


class PixelsAsLatents(MeteredSurface):
    """A surface whose latents are the images themselves."""

    @property
    def has_latents(self) -> bool:
        return True

    def encode(self, x: Tensor) -> Tensor:
        return x.clone()

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Victim:
    """A classifier under attack, with images and labels."""

    surface: MeteredSurface
    x: Tensor
    labels: Tensor

    def craft(self, attack: Attack[Any], count: int | None = None, train_steps: int | None = None) -> Tensor:
        """Images of the attack, which is trained first if `trainable`; every call returns the same ones."""
        x, labels = self.x[:count], self.labels[:count]
        torch.manual_seed(1)
        np.random.seed(1)
        if attack.trainable:
            assert isinstance(attack, nn.Module)
            attack.build(self.surface.image_shape, self.surface.num_classes)
            attack.train()
            attack.step_limit = train_steps
            attack.fit(digits(), self.surface, torch.Generator().manual_seed(0))
            attack.eval()
        return attack.craft(self.surface, x, labels, Noise(0, range(len(x))))

    def error(self, images: Tensor) -> float:
        """The share of misclassified images."""
        return error(self.surface, images, self.labels[: len(images)])

    @property
    def correct(self) -> Tensor:
        """Which clean images are classified correctly, shape (B,)."""
        with torch.no_grad():
            return self.surface(self.x).argmax(dim=1) == self.labels


def error(surface: nn.Module, x: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((surface(x).argmax(dim=1) != labels).float().mean())


@cache
def digits() -> TrainingData:
    splits = Digits(Config(), Path()).splits()
    return TrainingData(splits.train, splits.validation, (1, 28, 28), 10, torch.device("cpu"))


@cache
def convolutional(count: int = 200) -> Victim:
    """A network of two small convolutions, with a twentieth of the cost of the papers' networks.

    It is trained for a few steps only: for a confident classifier the gradient of the libraries'
    cross-entropy is zero in float32.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    _train(model, steps=40, rate=3e-3)
    return _victim(model, count)


@cache
def dense(count: int = 100) -> Victim:
    """A network so small that complete attacks are fast."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 64), nn.Tanh(), nn.Linear(64, 10))
    _train(model, steps=60, rate=1e-2)
    return _victim(model, count)


def _train(model: nn.Module, steps: int, rate: float) -> None:
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    images, labels = digits().take(torch.arange(len(digits().train)))
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        adam.step()


def _victim(model: nn.Module, count: int) -> Victim:
    test = Digits(Config(), Path()).splits().test
    surface = PixelsAsLatents(model.eval().requires_grad_(False), 10, (1, 28, 28)).eval()
    return Victim(surface, test.take(torch.arange(count)), test.labels[:count])
