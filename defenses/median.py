"""Median filter."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense, infer


class MedianConfig(Config):
    """`size`: side of the square window in pixels; odd."""

    size: int = infer(3, ge=1, le=15)

    @field_validator("size")
    @classmethod
    def _require_odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("must be odd")
        return size


@defense("median")
class Median(Defense[MedianConfig]):
    """Replaces each pixel by the median of its neighbourhood (feature squeezing, Xu et al. 2018)."""

    control = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        size, margin = self.config.size, self.config.size // 2
        padded = F.pad(x, (margin, margin, margin, margin), mode="reflect")
        windows = padded.unfold(2, size, 1).unfold(3, size, 1).flatten(4)
        return windows.median(dim=4).values
