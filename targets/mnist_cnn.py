"""The MNIST classifiers A, B and C of the APE-GAN paper (Shen et al. 2017, Table 5), ending in logits.

The paper does not state the padding of A and B; here their 3×3 convolutions have none (28 → 26 → 24 → 12).
C is from cleverhans and has its padding: SAME, VALID, VALID (28 → 14 → 5 → 1).
"""

from __future__ import annotations

from benchmark.targets.loading.recipe import RecipeConfig, TrainedTarget
from torch import nn

from benchmark.api import target


class _MnistCnn(TrainedTarget[RecipeConfig]):
    """Base class of the three models; subclasses build the layers."""

    def __init__(self, config: RecipeConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        if image_shape[1:] != (28, 28):
            raise ValueError(f"{self.name} takes 28×28 images, got {image_shape[1]}×{image_shape[2]}")
        self.layers = self.build(image_shape[0], num_classes)

    @staticmethod
    def build(channels: int, num_classes: int) -> nn.Sequential:
        raise NotImplementedError


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
    """Model B: four 3×3 convolutions with two poolings, two dense layers of 200 (Carlini's MNIST network)."""

    channels_last = True

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

    channels_last = True

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
