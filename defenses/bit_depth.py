"""Bit-depth reduction (Xu, Evans and Qi 2018, "Feature Squeezing")."""

from __future__ import annotations

from torch import Tensor

from benchmark.noise import Noise
from benchmark.plugin import Config, infer
from defenses.contract import Defense, defense


class BitDepthConfig(Config):
    """`bits` of each channel that are kept: values are rounded to 2^bits levels from 0 to 1."""

    bits: int = infer(3, ge=1, le=8)


@defense("bit-depth")
class BitDepth(Defense[BitDepthConfig]):
    """Rounds each channel to few levels. With one bit on MNIST it is a baseline, not a placebo.

    Nearly binary images lose nothing by it, and a perturbation below one half is undone outright. The
    gradient is zero almost everywhere.
    """

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        steps = float(2**self.config.bits - 1)
        return (x * steps).round() / steps
