"""The identity: a control that stands for no defense."""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense


@defense("identity")
class Identity(Defense[Config]):
    """Returns the images unchanged, to measure the classifier without a purifier."""

    control = True
    is_identity = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return x
