"""Uniform noise in the ball: a control for attacks, which have to do better than chance."""

from __future__ import annotations

from torch import Tensor

from benchmark.api import Attack, Config, Noise, Surface, attack, sweep


class UniformNoiseConfig(Config):
    """`eps`: radius of the L∞ ball, on the [0, 1] scale."""

    eps: float = sweep(ge=0, le=1)


@attack("uniform-noise")
class UniformNoise(Attack[UniformNoiseConfig]):
    """Adds uniform noise on [−eps, eps] to each value, as a baseline that attacks have to beat."""

    norm = "linf"
    uses = "nothing"
    stochastic = True

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        return (x + self.config.eps * (2 * noise.uniform_like(x) - 1)).clamp_(0, 1)
