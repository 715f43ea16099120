"""The CIFAR-10 classifier D of the APE-GAN paper (Shen et al. 2017, Table 5), ending in logits."""

from __future__ import annotations

from benchmark.targets.loading.recipe import RecipeConfig, TrainedTarget
from torch import nn

from benchmark.api import require_small_images, target, train


class CifarCnnConfig(RecipeConfig):
    __doc__ = RecipeConfig.__doc__

    epochs: int = train(12, ge=1)


@target("cifar-d")
class CifarD(TrainedTarget[CifarCnnConfig]):
    """Model D: four 3×3 convolutions with two poolings, two dense layers of 256 (Carlini's CIFAR network).

    The paper does not state the padding. Here it is none (32 → 30 → 28 → 14 → 12 → 10 → 5), and 0.5 is
    subtracted from the pixels, both as in Carlini's code. The paper's clean error is 20.2 %. Takes 28×28 and
    32×32 images.
    """

    centre = 0.5
    channels_last = True

    def __init__(self, config: CifarCnnConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        require_small_images(self.name, image_shape)
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
