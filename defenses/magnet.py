"""MagNet's reformer (Meng and Chen 2017, "MagNet: a Two-Pronged Defense against Adversarial Examples")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from benchmark.defenses.nets.training_steps import update
from torch import Tensor, nn

from benchmark.api import Config, Defense, Loop, Noise, TrainingData, defense, steps_of, train


class MagnetConfig(Config):
    """`preset: paper` trains 100 epochs; `cpu` is for two CPU cores: four epochs at ten times the rate.

    `noise`: standard deviation of the Gaussian noise that is added to the training images (0.1 in the
    published code). `architecture: mnist` has a pooling in the middle, `cifar` has none; null selects it by
    the number of channels. The published schedule is for MNIST only.
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
    """Replaces the image by the output of a denoising autoencoder.

    Only the reformer: the detectors of MagNet reject images and do not purify them. For MNIST the network is
    autoencoder I of the published code (Trevillie/MagNet): five 3×3 convolutions with sigmoids, the first
    four with three filters, and average pooling and upsampling. `cifar` is an interpretation: the same
    convolutions without pooling and upsampling. It is trained without adversarial images. Two differences
    from the published code: each batch draws new noise, and the small regulariser is on the weights instead
    of the outputs of layers.
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
    """Convolutions with three filters; `pools` adds a pooling and an upsampling in the middle."""
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
    nn.init.xavier_uniform_(layer.weight)  # as in the published code; with torch's default it hardly learns
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer, nn.Sigmoid()
