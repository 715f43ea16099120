"""DenseNet with 40 layers (Huang et al. 2017, "Densely Connected Convolutional Networks")."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from targets.contract import target
from targets.recipe import DeepConfig, TrainedTarget, check_small, initialise

_DEPTH = 40
_GROWTH = 12
_FIRST = 16


@target("densenet40")
class DenseNet40(TrainedTarget[DeepConfig]):
    """DenseNet of depth 40 and growth rate 12, without bottlenecks or compression.

    A 3×3 stem of 16 filters, three dense blocks of 12 layers, halved in size between them: 1.0 million
    weights. No dropout, as in the paper where images are augmented. The clean error of the APE-GAN paper's
    DenseNet is 9.9 % on CIFAR-10. For 28×28 and 32×32 images.
    """

    centre = 0.5
    channels_last = True

    def __init__(self, config: DeepConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        check_small(self.name, image_shape)
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
    """A layer that adds its filters to all that came before it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, _GROWTH, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)
