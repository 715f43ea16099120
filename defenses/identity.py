"""No defense at all, as a row of its own."""

from __future__ import annotations

from torch import Tensor

from benchmark.noise import Noise
from benchmark.plugin import Config
from defenses.contract import Defense, defense


@defense("identity")
class Identity(Defense[Config]):
    """Gives the images back unchanged: what no purifier at all would score."""

    control = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return x
