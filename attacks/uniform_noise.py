"""Uniform noise in the ball: the control that tells an attack from chance."""

from __future__ import annotations

from torch import Tensor

from attacks.contract import Attack, Surface, attack
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, sweep


class UniformNoiseConfig(Config):
    """`eps`: radius of the L∞ ball, on the [0, 1] scale."""

    eps: float = sweep(ge=0, le=1)


@attack("uniform-noise")
class UniformNoise(Attack[UniformNoiseConfig]):
    """Adds a number uniform on [−eps, eps] to each value; an attack that does no better is none."""

    uses = "nothing"
    stochastic = True

    @property
    def norm(self) -> Norm:
        return "linf"

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        return (x + self.config.eps * (2 * noise.uniform_like(x) - 1)).clamp_(0, 1)
