"""Gaussian noise."""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense, infer


class GaussianNoiseConfig(Config):
    """`std`: standard deviation on the [0, 1] scale."""

    std: float = infer(0.1, ge=0, le=1)


@defense("gaussian-noise")
class GaussianNoise(Defense[GaussianNoiseConfig]):
    """Adds Gaussian noise and clips to [0, 1]; a control that restores nothing."""

    stochastic = True
    control = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return (x + self.config.std * noise.normal_like(x)).clamp(0, 1)
