"""Projected gradient descent (Madry et al. 2018): native, through Foolbox and through ART."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from attacks.contract import Attack, Surface, attack
from attacks.gradients import sign_ascent
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, param, sweep


class PgdConfig(Config):
    """`eps`: radius of the L∞ ball; `alpha`: step, default `2.5 · eps / steps`.

    `restarts` counts runs from random starts; `random_start: false` begins once at the clean image.
    """

    eps: float = sweep(ge=0, le=1)
    steps: int = param(40, ge=1)
    alpha: float | None = param(None, gt=0, le=1)
    restarts: int = param(1, ge=1)
    random_start: bool = True
    backend: Literal["native", "foolbox", "art"] = "native"

    @model_validator(mode="after")
    def _honoured(self) -> PgdConfig:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts above 1 need random_start: without it every run is the same")
        if self.restarts > 1 and self.backend == "foolbox":
            raise ValueError(
                "restarts above 1: Foolbox's own repetition keeps no strongest image; "
                "use backend native or art"
            )
        return self


@attack("pgd")
class Pgd(Attack[PgdConfig]):
    """Gradient-sign steps from random starts; keeps each image's most wrong iterate of all restarts."""

    stochastic = True

    @property
    def norm(self) -> Norm:
        return "linf"

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """Only when it can cross the ball: ten steps or more that add up to its diameter."""
        return self.config.steps >= 10 and self._alpha * self.config.steps >= 2 * self.config.eps

    @property
    def takes_start(self) -> bool:  # type: ignore[override]
        return self.config.backend == "native"

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        if self.config.backend == "foolbox":
            return self._foolbox(surface, x, labels)
        if self.config.backend == "art":
            return self._art(surface, x, labels)
        if start is not None:
            return self._ascend(surface, x, labels, start)[0]
        best, best_margin = self._ascend(surface, x, labels, self._begin(x, noise))
        for _ in range(self.config.restarts - 1):
            found, found_margin = self._ascend(surface, x, labels, self._begin(x, noise))
            better = found_margin > best_margin
            best = torch.where(better[:, None, None, None], found, best)
            best_margin = torch.maximum(best_margin, found_margin)
        return best

    @property
    def _alpha(self) -> float:
        config = self.config
        return config.alpha if config.alpha is not None else 2.5 * config.eps / config.steps

    def _begin(self, x: Tensor, noise: Noise) -> Tensor:
        if not self.config.random_start:
            return x
        offset = noise.uniform_like(x).mul_(2).sub_(1).mul_(self.config.eps)
        return (x + offset).clamp_(0, 1)

    def _ascend(self, surface: Surface, x: Tensor, labels: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        return sign_ascent(surface, x, labels, start, eps=config.eps, alpha=self._alpha, steps=config.steps)

    def _foolbox(self, surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
        from foolbox.attacks import LinfPGD

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        library = LinfPGD(abs_stepsize=self._alpha, steps=config.steps, random_start=config.random_start)
        return run_foolbox(library, surface, x, labels, eps=config.eps)

    def _art(self, surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
        from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch import (
            ProjectedGradientDescentPyTorch,
        )

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: ProjectedGradientDescentPyTorch(
                classifier,
                eps=config.eps,
                eps_step=self._alpha,
                max_iter=config.steps,
                num_random_init=config.restarts if config.random_start else 0,
                batch_size=len(x),
                verbose=False,
            ),
            surface,
            x,
            labels,
        )
