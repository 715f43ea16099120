"""Gaussian noise: the benign change of the APE-GAN paper (section 4.1), not an attack."""

from __future__ import annotations

import math

from torch import Tensor

from attacks.contract import Attack, Surface, attack
from benchmark.noise import Noise
from benchmark.plugin import Config, param


class NoiseConfig(Config):
    """`variance` of the noise on the [0, 1] scale (the paper's 0.05 is a σ of 0.22)."""

    variance: float = param(0.05, ge=0, le=1)


@attack("noise")
class GaussianNoise(Attack[NoiseConfig]):
    """Adds Gaussian noise of mean 0 and clips to the box; looks at no surface."""

    uses = "nothing"
    stochastic = True

    @property
    def norm(self) -> None:
        return None

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        return (x + math.sqrt(self.config.variance) * noise.normal_like(x)).clamp_(0, 1)
