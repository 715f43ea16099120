"""The MNIST classifiers A, B and C of the APE-GAN paper (Shen et al. 2017, Table 5), ending in logits.

The paper leaves paddings open for A and B: 3×3 convolutions are unpadded here (28 → 26 → 24 → 12).
C follows cleverhans, its origin: paddings SAME, VALID, VALID (28 → 14 → 5 → 1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.plugin import Config, train
from benchmark.training import Loop, steps_of
from targets.contract import Target, target


class MnistCnnConfig(Config):
    """Adam with a cosine schedule, for `epochs` passes but never fewer than `min_steps` batches."""

    epochs: int = train(4, ge=1)
    min_steps: int = train(250, ge=0)
    batch_size: int = train(128, ge=1)
    lr: float = train(1e-3, gt=0)


class _MnistCnn(Target[MnistCnnConfig]):
    """Shared training recipe; the subclasses give `layers`."""

    def __init__(self, config: MnistCnnConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        if image_shape[1:] != (28, 28):
            raise ValueError(f"{self.name} takes 28×28 images, got {image_shape[1]}×{image_shape[2]}")
        self.layers = self.build(image_shape[0], num_classes)

    @staticmethod
    def build(channels: int, num_classes: int) -> nn.Sequential:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]

    def fit(self, data: TrainingData, generator: torch.Generator) -> None:
        config = self.config
        adam = torch.optim.Adam(self.parameters(), lr=config.lr)
        steps = steps_of(data, epochs=config.epochs, batch_size=config.batch_size, at_least=config.min_steps)
        loop = Loop(self, data, generator, batch_size=config.batch_size, steps=steps, adam=adam)
        for images, labels in loop:
            adam.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * (loop.step - 1) / steps)) / 2
            loss = F.cross_entropy(self(images), labels)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            loop.report(loss=loss)


@target("mnist-a")
class MnistA(_MnistCnn):
    """Model A: two 3×3 convolutions, pooling, a dense layer of 128, dropout."""

    @staticmethod
    def build(channels: int, num_classes: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * 12 * 12, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, num_classes),
        )


@target("mnist-b")
class MnistB(_MnistCnn):
    """Model B: four 3×3 convolutions with two poolings, two dense layers of 200 (Carlini's MNIST net)."""

    @staticmethod
    def build(channels: int, num_classes: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 200),
            nn.ReLU(),
            nn.Linear(200, 200),
            nn.ReLU(),
            nn.Linear(200, num_classes),
        )


@target("mnist-c")
class MnistC(_MnistCnn):
    """Model C: three strided convolutions (8×8, 6×6, 5×5) and one dense layer."""

    @staticmethod
    def build(channels: int, num_classes: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, 64, 8, stride=2, padding=3),
            nn.ReLU(),
            nn.Conv2d(64, 128, 6, stride=2),
            nn.ReLU(),
            nn.Conv2d(128, 128, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, num_classes),
        )
