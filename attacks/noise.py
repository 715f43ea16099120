"""Gaussian noise: the benign perturbation of the APE-GAN paper (section 4.1), not an attack."""

from __future__ import annotations

import math

from torch import Tensor

from benchmark.api import Attack, Config, Noise, Surface, attack, param


class NoiseConfig(Config):
    """`variance` of the noise on the [0, 1] scale (the paper's 0.05 is a σ of 0.22)."""

    variance: float = param(0.05, ge=0, le=1)


@attack("noise")
class GaussianNoiseAttack(Attack[NoiseConfig]):
    """Adds Gaussian noise of mean 0 and clips to [0, 1], without querying the surface."""

    norm = None
    uses = "nothing"
    stochastic = True

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        return (x + math.sqrt(self.config.variance) * noise.normal_like(x)).clamp_(0, 1)
