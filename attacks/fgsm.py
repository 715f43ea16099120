"""Fast gradient sign method (Goodfellow et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attacks.contract import Attack, Surface, attack
from attacks.gradients import loss_gradient
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, sweep


class FgsmConfig(Config):
    """`eps`: radius of the L∞ ball, on the [0, 1] scale."""

    eps: float = sweep(ge=0, le=1)


@attack("fgsm")
class Fgsm(Attack[FgsmConfig]):
    """One step of `eps` along the sign of the gradient; one gradient serves a whole sweep of `eps`."""

    shares_sweep = True

    @property
    def norm(self) -> Norm:
        return "linf"

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        return self.craft_sweep([self], surface, x, labels, [noise])[0]

    @classmethod
    def craft_sweep(
        cls,
        attacks: Sequence[Attack[Any]],
        surface: Surface,
        x: Tensor,
        labels: Tensor,
        noises: Sequence[Noise],
    ) -> list[Tensor]:
        gradient, _ = loss_gradient(surface, x, labels)
        sign = gradient.sign()
        return [(x + attack.config.eps * sign).clamp_(0, 1) for attack in attacks]
