"""The networks of Defense-GAN: generators, the critic and the encoder."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


def build_generator(
    kind: Literal["paper", "dcgan"], latent: int, image_shape: tuple[int, int, int]
) -> nn.Module:
    """The generator for images of that shape; the paper's has 1,554,177 parameters at 28×28×1."""
    if kind == "dcgan":
        return _Dcgan(latent, image_shape)
    if image_shape[1:] == (28, 28):
        return _PaperGenerator(latent, image_shape[0])
    return _InvGanGenerator(latent, image_shape[0])


def build_convolutions(channels: int, outputs: int) -> nn.Sequential:
    """The paper's critic with one output, or the encoder with one output for each latent."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 5, stride=2, padding=2),
        LeakyReLU(),
        nn.Conv2d(64, 128, 5, stride=2, padding=2),
        LeakyReLU(),
        nn.Conv2d(128, 256, 5, stride=2, padding=2),
        LeakyReLU(),
        nn.Flatten(),
        nn.Linear(256 * 4 * 4, outputs),
    )


def initialise(module: nn.Module) -> None:
    """He initialisation with the mean of fan-in and fan-out, as in the official code; for `nn.Module.apply`.

    The default of torch is far smaller.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        area, strides = math.prod(module.kernel_size), math.prod(module.stride)
        inputs, outputs = module.in_channels * area, module.out_channels * area
        if isinstance(module, nn.ConvTranspose2d):
            inputs //= strides
        else:
            outputs //= strides
        bound = math.sqrt(12 / (inputs + outputs))
        nn.init.uniform_(module.weight, -bound, bound)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class LeakyReLU(nn.Module):
    """Leaky ReLU with a slope of 0.2, whose second derivative is left out: it is 0.

    torch's own propagates these zeros through all layers if a loss contains a gradient, as the penalty of
    WGAN-GP does.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.where(x.detach() > 0, 1.0, 0.2).to(x.dtype)


class _PaperGenerator(nn.Module):
    """A dense layer to 256×4×4, then transposed 5×5 convolutions to 8×8 (cropped to 7×7), 14×14 and 28×28."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(latent, 256 * 4 * 4)
        self.to_8 = nn.ConvTranspose2d(256, 128, 5, stride=2, padding=2, output_padding=1)
        self.to_14 = nn.ConvTranspose2d(128, 64, 5, stride=2, padding=2, output_padding=1)
        self.to_28 = nn.ConvTranspose2d(64, channels, 5, stride=2, padding=2, output_padding=1)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.dense(z).relu().reshape(-1, 256, 4, 4)
        hidden = self.to_8(hidden).relu()[:, :, :7, :7]
        return torch.sigmoid(self.to_28(self.to_14(hidden).relu()))


class _InvGanGenerator(nn.Sequential):
    """A dense layer to 512×4×4, transposed 4×4 convolutions to 32×32, a 3×3 one; 3,828,739 parameters."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__(
            nn.Linear(latent, 512 * 4 * 4),
            nn.BatchNorm1d(512 * 4 * 4),
            nn.ReLU(),
            nn.Unflatten(1, (512, 4, 4)),
            *_upsampling(512, 256),
            *_upsampling(256, 128),
            *_upsampling(128, 64),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.Sigmoid(),
        )


class _Dcgan(nn.Module):
    """Four transposed 4×4 convolutions with 64, 32, 16 and 8 channels, a 3×3 one, and a crop."""

    def __init__(self, latent: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        self.layers = nn.Sequential(
            nn.Unflatten(1, (latent, 1, 1)),
            nn.ConvTranspose2d(latent, 64, 4),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            *_upsampling(64, 32),
            *_upsampling(32, 16),
            *_upsampling(16, 8),
            nn.Conv2d(8, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        top, left = (32 - self.height) // 2, (32 - self.width) // 2
        return self.layers(z)[:, :, top : top + self.height, left : left + self.width]  # type: ignore[no-any-return]


def _upsampling(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
