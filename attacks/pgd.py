"""Projected gradient descent (Madry et al. 2018): native, through Foolbox and through ART."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from attacks.ascent import Ascent, AscentConfig, ascend
from attacks.ball import Ball, BallConfig, most_wrong
from attacks.contract import Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param, sweep


class PgdConfig(AscentConfig, BallConfig):
    """`eps`: radius of the ball of `distance`; `alpha`: step, default `2.5 · eps / steps`.

    `restarts` counts runs from random starts; `random_start: false` begins once at the clean image.
    """

    lacks: ClassVar = {
        "foolbox": frozenset({"loss", "restarts"}),  # its own repetition keeps no strongest image
        "art": frozenset({"loss"}),
    }

    eps: float = sweep(ge=0, le=1000)  # in L2 it may be above 1
    restarts: int = param(1, ge=1)
    random_start: bool = True
    backend: Literal["native", "foolbox", "art"] = "native"

    @model_validator(mode="after")
    def _honoured(self) -> PgdConfig:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts above 1 need random_start: without it every run is the same")
        return self


@attack("pgd")
class Pgd(Ascent[PgdConfig]):
    """Steps along the gradient (L∞: its sign) from random starts; keeps the most wrong iterate of all."""

    stochastic = True

    @property
    def norm(self) -> Norm:
        return self.config.distance

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """Only when it can cross the ball: ten steps or more that add up to its diameter, at any class."""
        config = self.config
        long_enough = config.steps >= 10 and self.config.step * config.steps >= 2 * config.eps
        return long_enough and not config.targeted

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        config = self.config
        ball = Ball(x, config.eps, config.distance)
        if start is not None:
            starts = [start]
        elif config.random_start:
            starts = [ball.random_point(noise) for _ in range(config.restarts)]
        else:
            starts = [x]
        return most_wrong(
            ascend(surface, goal, begin, ball, alpha=config.step, steps=config.steps, loss=config.loss)
            for begin in starts
        )

    def harder(self, times: int) -> Pgd:
        more = super().harder(times)
        if not self.config.random_start or self.config.backend == "foolbox":
            return more
        return more.changed(restarts=times * self.config.restarts)

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from foolbox.attacks import L2PGD, LinfPGD

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        kind = LinfPGD if config.distance == "linf" else L2PGD
        library = kind(abs_stepsize=config.step, steps=config.steps, random_start=config.random_start)
        return run_foolbox(library, surface, x, goal, config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch import (
            ProjectedGradientDescentPyTorch,
        )

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: ProjectedGradientDescentPyTorch(
                classifier,
                norm="inf" if config.distance == "linf" else 2,
                eps=config.eps,
                eps_step=config.step,
                max_iter=config.steps,
                num_random_init=config.restarts if config.random_start else 0,
                targeted=goal.target is not None,
                batch_size=len(x),
                verbose=False,
            ),
            surface,
            x,
            goal,
            config.eps,
        )
