"""The MNIST and Fashion-MNIST classifier of the report "AdvGAN vs. Defensive Purification"."""

from __future__ import annotations

from torch import nn

from targets.contract import target
from targets.recipe import RecipeConfig, TrainedTarget, check_small


@target("advgan-cnn")
class AdvGanCnn(TrainedTarget[RecipeConfig]):
    """Two convolutions, pooling, two convolutions, pooling, a dense layer.

    The report gives no more than that. Ours: 3×3 kernels padded by 1, with 32, 32, 64 and 64 filters, and
    one dense layer, which ends in logits. The report's clean errors are 0.5 % on MNIST and 7.6 % on
    Fashion-MNIST. For 28×28 and 32×32 images.
    """

    channels_last = True

    def __init__(self, config: RecipeConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        check_small(self.name, image_shape)
        channels, height, width = image_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), num_classes),
        )
