"""Bit-depth reduction (Xu, Evans and Qi 2018, "Feature Squeezing")."""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense, infer


class BitDepthConfig(Config):
    """`bits` per channel: values are rounded to 2^bits levels from 0 to 1."""

    bits: int = infer(3, ge=1, le=8)


@defense("bit-depth")
class BitDepth(Defense[BitDepthConfig]):
    """Rounds each channel to a few levels.

    With one bit on MNIST it is a strong baseline and no placebo: almost binary images lose nothing, and a
    perturbation below one half is removed completely. The gradient is zero almost everywhere.
    """

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        steps = float(2**self.config.bits - 1)
        return (x * steps).round() / steps
