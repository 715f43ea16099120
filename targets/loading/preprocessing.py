"""Resizing and normalising of images in front of a pretrained network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from benchmark.api import Config, param

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PreprocessingConfig(Config):
    """`mean` and `std`, one number for each channel, normalise the images: (x − mean) / std.

    `size` first resizes them to `size` × `size` pixels. All three are off by default, because a module may do
    this itself.
    """

    mean: list[float] | None = param(None, min_length=1)
    std: list[float] | None = param(None, min_length=1)
    size: int | None = param(None, ge=1)

    @model_validator(mode="after")
    def _require_mean_and_std(self) -> Self:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std go together: one number in each for every channel")
        if any(value <= 0 for value in self.std or ()):
            raise ValueError("std must be above 0")
        return self

    def check_channels(self, origin: str, image_shape: tuple[int, int, int]) -> None:
        """Raise ValueError for images with another number of channels than `mean` has."""
        if self.mean is not None and len(self.mean) != image_shape[0]:
            raise ValueError(
                f"{origin} takes images of {len(self.mean)} channels, got {image_shape[0]} (its mean and std)"
            )

    def wrap(self, network: nn.Module) -> Preprocessed:
        """The network with this preprocessing in front."""
        return Preprocessed(network, size=self.size, mean=self.mean, std=self.std)


class Preprocessed(nn.Module):
    """A network with resizing and normalising in front.

    Args:
        network: Maps normalised images to logits.
        size: Height and width to which images of another size are resized (bilinear, antialiased); None
            does not resize.
        mean: Mean of each channel, subtracted.
        std: Standard deviation of each channel, divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor(mean or [0.0])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std or [1.0])[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network((x - self.mean) / self.std)  # type: ignore[no-any-return]
