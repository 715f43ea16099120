"""Square Attack (Andriushchenko et al. 2020), through ART: a random search that queries only logits."""

from __future__ import annotations

from typing import Literal

from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Attack, BallConfig, Noise, Surface, attack, param


class SquareConfig(BallConfig):
    """`eps`: radius of the ball of `distance`; `steps`: squares tried; ART makes three queries for each.

    `p_init`: share of the pixels that a square covers at the start.
    """

    steps: int = param(1000, ge=1)
    p_init: float = param(0.8, gt=0, lt=1)
    restarts: int = param(1, ge=1)
    backend: Literal["art"] = "art"


@attack("square")
class Square(Attack[SquareConfig]):
    """Changes random squares of pixels and keeps those that increase the loss."""

    uses = "scores"
    stochastic = True

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """True from 1,000 squares on: with fewer tries a random search is too weak to rank a row."""
        return self.config.steps >= 1000

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        config = self.config
        options = {
            "norm": "inf" if config.distance == "linf" else 2,
            "max_iter": config.steps,
            "eps": config.eps,
            "p_init": config.p_init,
            "nb_restarts": config.restarts,
            "verbose": False,
        }
        return run_art("SquareAttack", options, surface, x, Goal(labels), config.eps)
