"""Auto-PGD on the cross-entropy (Croce and Hein 2020, arXiv 2003.01690, section 4)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from attacks.auto_pgd import auto_pgd
from attacks.ball import Ball, BallNorm, per_image
from attacks.contract import Attack, Surface, attack
from attacks.gradients import loss_gradient
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, param, sweep


class ApgdCeConfig(Config):
    """`eps`: radius of the ball of `distance`. `restarts` counts runs, each from a random start."""

    eps: float = sweep(ge=0)
    distance: BallNorm = "linf"
    steps: int = param(100, ge=1)
    restarts: int = param(1, ge=1)
    backend: Literal["native", "art"] = "native"

    @model_validator(mode="after")
    def _within_the_box(self) -> ApgdCeConfig:
        if self.distance == "linf" and self.eps > 1:
            raise ValueError("eps above 1: no L∞ ball is larger than the box [0, 1]")
        return self


@attack("apgd-ce")
class ApgdCe(Attack[ApgdCeConfig]):
    """Ascent of the cross-entropy with momentum and a step size that sets itself; part of AutoAttack.

    The loss that steers the step size is log Σ exp(other scores) − true score. It rises and falls with the
    cross-entropy, but does not run into zero where the classifier is sure.
    """

    stochastic = True

    @property
    def norm(self) -> Norm:
        return self.config.distance

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """Only with enough steps for its step size to settle."""
        return self.config.steps >= 10

    @property
    def takes_start(self) -> bool:  # type: ignore[override]
        return self.config.backend == "native"

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        if self.config.backend == "art":
            return self._art(surface, x, labels)
        ball = Ball(x, self.config.eps, self.config.distance)

        def objective(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            gradient, logits = loss_gradient(surface, images, labels)
            own = logits.gather(1, labels[:, None]).squeeze(1)
            others = logits.scatter(1, labels[:, None], float("-inf"))
            return gradient, others.logsumexp(dim=1) - own, logits

        starts = [ball.random_point(noise) for _ in range(self.config.restarts)] if start is None else [start]
        found = [auto_pgd(objective, labels, begin, ball, steps=self.config.steps) for begin in starts]
        best, best_margin = found[0]
        for images, margins in found[1:]:
            better = margins > best_margin
            best = torch.where(per_image(better), images, best)
            best_margin = torch.maximum(best_margin, margins)
        return best

    def _art(self, surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
        from art.attacks.evasion import AutoProjectedGradientDescent

        from attacks.art_adapter import run_art

        config = self.config
        if config.eps == 0:
            return x.clone()  # ART refuses an empty ball
        return run_art(
            lambda classifier: AutoProjectedGradientDescent(
                classifier,
                norm={"linf": "inf", "l2": 2}[config.distance],
                eps=config.eps,
                eps_step=2 * config.eps,
                max_iter=config.steps,
                nb_random_init=config.restarts,
                batch_size=len(x),
                loss_type="cross_entropy",
                verbose=False,
            ),
            surface,
            x,
            labels,
        )
