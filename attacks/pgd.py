"""Projected gradient descent (Madry et al. 2018): native, through Foolbox and through ART."""

from __future__ import annotations

from typing import ClassVar, Literal

from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.foolbox_adapter import run_foolbox
from benchmark.attacks.steps.goal import Goal
from benchmark.attacks.steps.iterative import IterativeAttack, IterativeConfig
from pydantic import model_validator
from torch import Tensor

from benchmark.api import Ball, BallConfig, Noise, Surface, attack, most_wrong, param, sweep


class PgdConfig(IterativeConfig, BallConfig):
    """`eps`: radius of the ball of `distance`; `alpha`: step size, by default `2.5 · eps / steps`.

    `restarts`: number of runs, each from a random start; `random_start: false` starts one run at the clean
    image.
    """

    unsupported_options: ClassVar = {
        "foolbox": frozenset({"loss", "restarts"}),  # Foolbox's repetition does not keep the best image
        "art": frozenset({"loss"}),
    }

    eps: float = sweep(ge=0, le=1000)  # an L2 radius may exceed 1
    restarts: int = param(1, ge=1)
    random_start: bool = True
    backend: Literal["native", "foolbox", "art"] = "native"

    @model_validator(mode="after")
    def _refuse_equal_restarts(self) -> PgdConfig:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts above 1 need random_start: without it every run is the same")
        return self


@attack("pgd")
class Pgd(IterativeAttack[PgdConfig]):
    """Takes projected gradient steps from random starts and keeps the iterate with the largest margin."""

    stochastic = True

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """True for an untargeted run of ten steps or more whose steps together can cross the ball."""
        config = self.config
        long_enough = config.steps >= 10 and config.step * config.steps >= 2 * config.eps
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
        return most_wrong(self.run_steps(surface, goal, point, ball) for point in starts)

    def with_more_steps(self, times: int) -> Pgd:
        stronger = super().with_more_steps(times)
        if not self.config.random_start or self.config.backend == "foolbox":
            return stronger
        return stronger.with_options(restarts=times * self.config.restarts)

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        name = "LinfPGD" if self.config.distance == "linf" else "L2PGD"
        options = self.foolbox_options() | {"random_start": self.config.random_start}
        return run_foolbox(name, options, surface, x, goal, self.config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        config = self.config
        options = self.art_options(goal) | {
            "norm": "inf" if config.distance == "linf" else 2,
            "num_random_init": config.restarts if config.random_start else 0,
        }
        return run_art("ProjectedGradientDescentPyTorch", options, surface, x, goal, config.eps)
