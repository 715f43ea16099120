"""The CIFAR-10 classifier D of the APE-GAN paper (Shen et al. 2017, Table 5), ending in logits."""

from __future__ import annotations

from torch import nn

from benchmark.plugin import train
from targets.contract import target
from targets.recipe import RecipeConfig, TrainedTarget, check_small


class CifarCnnConfig(RecipeConfig):
    __doc__ = RecipeConfig.__doc__

    epochs: int = train(12, ge=1)


@target("cifar-d")
class CifarD(TrainedTarget[CifarCnnConfig]):
    """Model D: four 3×3 convolutions with two poolings, two dense layers of 256 (Carlini's CIFAR net).

    The paper leaves the paddings open: unpadded here as in Carlini's code (32 → 30 → 28 → 14 → 12 → 10 → 5),
    and the pixels less 0.5, as there. The paper's clean error is 20.2 %. For 28×28 and 32×32 images.
    """

    centre = 0.5
    channels_last = True

    def __init__(self, config: CifarCnnConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        check_small(self.name, image_shape)
        side = ((image_shape[1] - 4) // 2 - 4) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128 * side * side, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, num_classes),
        )
