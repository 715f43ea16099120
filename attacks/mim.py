"""Momentum iterative method (Dong et al. 2018, "Boosting Adversarial Attacks with Momentum", algorithm 1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attacks.ball import Ball, per_image
from attacks.contract import Attack, Surface, attack
from attacks.gradients import loss_gradient, margin
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, param, sweep


class MimConfig(Config):
    """`eps`: radius of the L∞ ball; `alpha`: step, default `2.5 · eps / steps`; `decay`: of the momentum.

    The paper takes 10 steps of `eps / 10`.
    """

    eps: float = sweep(ge=0, le=1)
    steps: int = param(40, ge=1)
    alpha: float | None = param(None, gt=0, le=1)
    decay: float = param(1.0, ge=0)
    backend: Literal["native", "foolbox", "art"] = "native"


@attack("mim")
class Mim(Attack[MimConfig]):
    """Steps along the sign of a running sum of gradients, each over its mean absolute value.

    Keeps each image's most wrong iterate. Foolbox sums gradients as they are, which lets those of less
    certain scores outweigh the others.
    """

    @property
    def norm(self) -> Norm:
        return "linf"

    @property
    def takes_start(self) -> bool:  # type: ignore[override]
        return self.config.backend == "native"

    @property
    def _alpha(self) -> float:
        config = self.config
        return config.alpha if config.alpha is not None else 2.5 * config.eps / config.steps

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        if self.config.backend == "foolbox":
            return self._foolbox(surface, x, labels)
        if self.config.backend == "art":
            return self._art(surface, x, labels)
        return self._native(surface, x, labels, x if start is None else start)

    def _native(self, surface: Surface, x: Tensor, labels: Tensor, start: Tensor) -> Tensor:
        ball = Ball(x, self.config.eps, "linf")
        current, momentum = start, torch.zeros_like(x)
        best, best_margin = start, torch.full((len(x),), float("-inf"), device=x.device)
        for step in range(self.config.steps + 1):
            if step < self.config.steps:
                gradient, logits = loss_gradient(surface, current, labels)
            else:
                with torch.no_grad():
                    logits = surface(current)
            margins = margin(logits, labels)
            better = margins >= best_margin
            best, best_margin = (
                torch.where(per_image(better), current, best),
                torch.where(better, margins, best_margin),
            )
            if step < self.config.steps:
                size = gradient.abs().flatten(1).mean(dim=1).clamp_min(1e-12)
                momentum = self.config.decay * momentum + gradient / per_image(size)
                current = ball.project(current + self._alpha * momentum.sign())
        return best

    def _foolbox(self, surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
        from foolbox.attacks import LinfMomentumIterativeFastGradientMethod

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        library = LinfMomentumIterativeFastGradientMethod(
            momentum=config.decay, abs_stepsize=self._alpha, steps=config.steps
        )
        return run_foolbox(library, surface, x, labels, eps=config.eps)

    def _art(self, surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
        from art.attacks.evasion import MomentumIterativeMethod

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: MomentumIterativeMethod(
                classifier,
                eps=config.eps,
                eps_step=self._alpha,
                decay=config.decay,
                max_iter=config.steps,
                batch_size=len(x),
                verbose=False,
            ),
            surface,
            x,
            labels,
        )
