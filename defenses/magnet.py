"""MagNet's reformer (Meng and Chen 2017, "MagNet: a Two-Pronged Defense against Adversarial Examples")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import Config, train
from benchmark.training import Loop, steps_of
from defenses.contract import Defense, defense
from defenses.learning import update


class MagnetConfig(Config):
    """`preset: paper` trains 100 epochs; `cpu` fits two cores: four, at ten times the rate.

    Gaussian noise of standard deviation `noise` (the paper's volume, 0.1) is added to the training images.
    `architecture: mnist` pools in the middle, `cifar` does not; None goes by the number of channels. The
    published schedule is known for MNIST only.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"epochs": 100, "batch_size": 256, "lr": 1e-3}
    }

    preset: Literal["cpu", "paper"] = train("cpu")
    architecture: Literal["mnist", "cifar"] | None = train(None)
    epochs: int = train(4, ge=1)
    min_steps: int = train(300, ge=0)
    batch_size: int = train(128, ge=1)
    lr: float = train(1e-2, gt=0)
    noise: float = train(0.1, ge=0)
    weight_decay: float = train(1e-9, ge=0)


@defense("magnet")
class Magnet(Defense[MagnetConfig]):
    """Feeds the image to an autoencoder that was trained to take noise away.

    The reformer alone, without the detectors, which would reject images and purify none. Autoencoder I of
    the paper: 3×3 convolutions with sigmoids, three filters, for MNIST one average pooling and upsampling
    between them. It never sees an adversarial image. Two departures from the published code: the noise is
    drawn anew for each batch, and the tiny regulariser is on the weights, where the code has it on the
    outputs of layers.
    """

    trainable = True

    def __init__(self, config: MagnetConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        channels, height, width = image_shape
        pools = (config.architecture or ("mnist" if channels == 1 else "cifar")) == "mnist"
        if pools and (height % 2 or width % 2):
            raise ValueError(f"magnet pools by two, so it needs even sides, got {height}×{width}")
        self.autoencoder = build_autoencoder(channels, pools=pools)

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return self.autoencoder(x)  # type: ignore[no-any-return]

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        config = self.config
        adam = torch.optim.Adam(self.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        steps = steps_of(data, epochs=config.epochs, batch_size=config.batch_size, at_least=config.min_steps)
        loop = Loop(self, data, generator, batch_size=config.batch_size, steps=steps, adam=adam)
        for clean, _ in loop:
            noisy = (clean + config.noise * torch.randn_like(clean)).clamp_(0, 1)
            loss = F.mse_loss(self.autoencoder(noisy), clean)
            update(adam, loss)
            loop.report(loss=loss)


def build_autoencoder(channels: int, *, pools: bool) -> nn.Sequential:
    """Convolutions of three filters, with a pooling in the middle or without."""
    down = [nn.AvgPool2d(2)] if pools else []
    up = [nn.Upsample(scale_factor=2)] if pools else []
    return nn.Sequential(
        *_convolution(channels, 3),
        *down,
        *_convolution(3, 3),
        *_convolution(3, 3),
        *up,
        *_convolution(3, 3),
        *_convolution(3, channels),
    )


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight)  # as in the code's library; at torch's own scale it hardly learns
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer, nn.Sigmoid()
