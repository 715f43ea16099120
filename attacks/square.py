"""Square Attack (Andriushchenko et al. 2020), through ART: random search that asks for scores only."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from attacks.ball import BallConfig
from attacks.contract import Attack, Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param


class SquareConfig(BallConfig):
    """`eps`: radius of the ball of `distance`; `steps`: squares tried, of each of which ART asks thrice.

    `p_init`: share of the pixels that a square covers at first.
    """

    steps: int = param(1000, ge=1)
    p_init: float = param(0.8, gt=0, lt=1)
    restarts: int = param(1, ge=1)
    backend: Literal["art"] = "art"


@attack("square")
class Square(Attack[SquareConfig]):
    """Squares of changed pixels, kept where they make the scores more wrong."""

    uses = "scores"
    stochastic = True

    @property
    def norm(self) -> Norm:
        return self.config.distance

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """Only with a thousand squares or more: it has to find its way by trying."""
        return self.config.steps >= 1000

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        from art.attacks.evasion import SquareAttack

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: SquareAttack(
                classifier,
                norm="inf" if config.distance == "linf" else 2,
                max_iter=config.steps,
                eps=config.eps,
                p_init=config.p_init,
                nb_restarts=config.restarts,
                batch_size=len(x),
                verbose=False,
            ),
            surface,
            x,
            Goal(labels),
            config.eps,
        )
