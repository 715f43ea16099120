"""What is done to images before a network that was trained elsewhere sees them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from benchmark.plugin import Config, param

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PreparationConfig(Config):
    """`mean` and `std`, one number for each channel, normalise the images: (x − mean) / std; `size` resizes
    them to so many pixels square first. All three are off by default: a module that does this itself needs
    none of them.
    """

    mean: list[float] | None = param(None, min_length=1)
    std: list[float] | None = param(None, min_length=1)
    size: int | None = param(None, ge=1)

    @model_validator(mode="after")
    def _refuse_half_a_normalisation(self) -> Self:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std go together: one number in each for every channel")
        if any(value <= 0 for value in self.std or ()):
            raise ValueError("std must be above 0")
        return self

    def check(self, origin: str, image_shape: tuple[int, int, int]) -> None:
        """Raise ValueError for images with another number of channels than `mean` has."""
        if self.mean is not None and len(self.mean) != image_shape[0]:
            raise ValueError(
                f"{origin} takes images of {len(self.mean)} channels, got {image_shape[0]} (its mean and std)"
            )

    def before(self, network: nn.Module) -> Prepared:
        """The network with this before it."""
        return Prepared(network, size=self.size, mean=self.mean, std=self.std)


class Prepared(nn.Module):
    """A network that is shown images resized and normalised.

    Args:
        network: Normalised images to logits.
        size: Height and width that images of another size are resized to (bilinear, antialiased); None
            leaves them as they are.
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.
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
