"""Rounding to 8 bits, which every saved image undergoes."""

from __future__ import annotations

from torch import Tensor

from benchmark.noise import Noise
from benchmark.plugin import Config
from defenses.contract import Defense, defense


@defense("round8")
class Round8(Defense[Config]):
    """Rounds each pixel to the nearest of 256 levels; undoes zero-margin attacks, protects from nothing."""

    control = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return (x * 255).round() / 255
