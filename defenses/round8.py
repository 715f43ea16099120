"""Rounding to 8 bits, as when an image is saved."""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense


@defense("round8")
class Round8(Defense[Config]):
    """Rounds each pixel to 256 levels, which undoes only attacks with almost no margin."""

    control = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return (x * 255).round() / 255
