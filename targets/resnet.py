"""ResNet18 for small images (He et al. 2016, "Deep Residual Learning for Image Recognition")."""

from __future__ import annotations

import torch.nn.functional as F
from benchmark.targets.loading.recipe import DeepConfig, TrainedTarget, initialise
from torch import Tensor, nn

from benchmark.api import require_small_images, target


@target("resnet18")
class ResNet18(TrainedTarget[DeepConfig]):
    """ResNet18 in its usual form for CIFAR: a 3×3 convolution without pooling, four stages of two blocks.

    The stages have 64, 128, 256 and 512 filters and are followed by global average pooling: 11.2 million
    weights. The clean error of the ResNet18 in the APE-GAN paper is 7.1 % on CIFAR-10. Takes 28×28 and 32×32
    images.
    """

    centre = 0.5

    def __init__(self, config: DeepConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        require_small_images(self.name, image_shape)
        stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.layers = nn.Sequential(
            _convolution(image_shape[0], 64),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            *(
                block
                for inputs, outputs, stride in stages
                for block in (_Block(inputs, outputs, stride), _Block(outputs, outputs, 1))
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, num_classes),
        )
        self.apply(initialise)


class _Block(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution if the shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
