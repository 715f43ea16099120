"""Median filter."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor

from benchmark.noise import Noise
from benchmark.plugin import Config, infer
from defenses.contract import Defense, defense


class MedianConfig(Config):
    """`size` is the side of the square window in pixels, odd."""

    size: int = infer(3, ge=1, le=15)

    @field_validator("size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("must be odd")
        return size


@defense("median")
class Median(Defense[MedianConfig]):
    """Replaces each pixel by the median of its neighbourhood (Xu et al. 2018, feature squeezing)."""

    control = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        size, margin = self.config.size, self.config.size // 2
        padded = F.pad(x, (margin, margin, margin, margin), mode="reflect")
        windows = padded.unfold(2, size, 1).unfold(3, size, 1).flatten(4)
        return windows.median(dim=4).values
