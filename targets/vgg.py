"""VGG13 for small images (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.targets.loading.recipe import DeepConfig, TrainedTarget, initialise
from torch import nn

from benchmark.api import require_small_images, target, train

_FILTERS = (64, 128, 256, 512, 512)


class VggConfig(DeepConfig):
    __doc__ = DeepConfig.__doc__

    lr: float = train(0.05, gt=0)


@target("vgg13")
class Vgg13(TrainedTarget[VggConfig]):
    """VGG13 in its usual form for CIFAR: ten 3×3 convolutions with batch normalisation, one dense layer.

    Five blocks of two convolutions and a pooling, with 64 to 512 filters: 9.4 million weights.
    The poolings round sizes up, so that 28×28 images do not vanish. The clean error of VGG13 in the AdvGAN
    report is 11.4 % on CIFAR-10. Takes 28×28 and 32×32 images.
    """

    centre = 0.5

    def __init__(self, config: VggConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        require_small_images(self.name, image_shape)
        self.layers = nn.Sequential(*_layers(image_shape[0], num_classes))
        self.apply(initialise)


def _layers(channels: int, num_classes: int) -> Iterator[nn.Module]:
    for filters in _FILTERS:
        for inputs in (channels, filters):
            yield nn.Conv2d(inputs, filters, 3, padding=1, bias=False)
            yield from (nn.BatchNorm2d(filters), nn.ReLU())
        yield nn.MaxPool2d(2, ceil_mode=True)
        channels = filters
    yield from (nn.Flatten(), nn.Linear(channels, num_classes))
