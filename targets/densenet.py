"""DenseNet with 40 layers (Huang et al. 2017, "Densely Connected Convolutional Networks")."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from benchmark.targets.loading.recipe import DeepConfig, TrainedTarget, initialise
from torch import Tensor, nn

from benchmark.api import require_small_images, target

_DEPTH = 40
_GROWTH = 12
_FIRST = 16


@target("densenet40")
class DenseNet40(TrainedTarget[DeepConfig]):
    """DenseNet of depth 40 and growth rate 12, without bottlenecks or compression.

    A 3×3 convolution with 16 filters and three dense blocks of 12 layers, with the size halved between them:
    1.0 million weights. No dropout, as in the paper for augmented images. The clean error of the DenseNet in
    the APE-GAN paper is 9.9 % on CIFAR-10. Takes 28×28 and 32×32 images.
    """

    centre = 0.5
    channels_last = True

    def __init__(self, config: DeepConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        require_small_images(self.name, image_shape)
        self.layers = nn.Sequential(*_layers(image_shape[0], num_classes))
        self.apply(initialise)


def _layers(channels: int, num_classes: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, _FIRST, 3, padding=1, bias=False)
    filters, blocks = _FIRST, 3
    for block in range(blocks):
        for _ in range((_DEPTH - blocks - 1) // blocks):
            yield _Dense(filters)
            filters += _GROWTH
        yield from (nn.BatchNorm2d(filters), nn.ReLU())
        if block < blocks - 1:
            yield from (nn.Conv2d(filters, filters, 1, bias=False), nn.AvgPool2d(2))
    yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, num_classes))


class _Dense(nn.Module):
    """A layer that concatenates its filters to its input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, _GROWTH, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)
