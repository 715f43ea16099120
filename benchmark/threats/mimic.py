"""A net that stands for a purifier in the backward pass of an attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MimicNet(nn.Module):
    """A filter of the image itself, and what a few convolutions at half the resolution add to it.

    So small that it is taught in seconds; deeper, or with larger kernels, it learned less in as few steps.
    Untaught it is the identity.

    Args:
        channels: Of the images (B, channels, H, W) that it takes and gives back.
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 5, padding=2)
        nn.init.dirac_(self.filter.weight)
        last = nn.Conv2d(width, 4 * channels, 3, padding=1)
        self.change = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            last,
            nn.PixelShuffle(2),
        )
        for zero in (self.filter.bias, last.weight, last.bias):
            assert zero is not None
            nn.init.zeros_(zero)
        self.to(memory_format=torch.channels_last)  # twice as fast to follow on a CPU

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        change = self.change(x)[:, :, :height, :width]  # odd sides come back longer by one
        taught: Tensor = self.filter(x) + change
        return taught
