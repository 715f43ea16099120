"""Auto-PGD on the targeted difference of logits ratio, APGD-T (Croce and Hein 2020, arXiv 2003.01690)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from attacks.auto_pgd import Objective, auto_pgd
from attacks.ball import Ball, BallNorm, per_image
from attacks.contract import Attack, Surface, attack
from attacks.gradients import margin
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, param, sweep

_FEWEST_CLASSES = 4


class ApgdDlrTargetedConfig(Config):
    """`eps`: radius of the ball of `distance`; `classes`: how many wrong classes are aimed at, best first."""

    eps: float = sweep(ge=0)
    distance: BallNorm = "linf"
    steps: int = param(100, ge=1)
    classes: int = param(9, ge=1)
    backend: Literal["native", "art"] = "native"

    @model_validator(mode="after")
    def _within_the_box(self) -> ApgdDlrTargetedConfig:
        if self.distance == "linf" and self.eps > 1:
            raise ValueError("eps above 1: no L∞ ball is larger than the box [0, 1]")
        return self


@attack("apgd-dlr-targeted")
class ApgdDlrTargeted(Attack[ApgdDlrTargetedConfig]):
    """One ascent for each of the classes that score best on the clean image; the most wrong image counts.

    Its loss, (target score − true score) / (best − mean of third and fourth), does not change when scores are
    shifted or scaled, and needs four classes. ART's targeted mode takes another loss: the untargeted ratio
    with the target in place of the true class.
    """

    stochastic = True

    @property
    def norm(self) -> Norm:
        return self.config.distance

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """Only with enough steps for its step size to settle."""
        return self.config.steps >= 10

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        if surface.num_classes < _FEWEST_CLASSES:
            raise ValueError(f"apgd-dlr-targeted needs four classes or more, here are {surface.num_classes}")
        ball = Ball(x, self.config.eps, self.config.distance)

        def native(target: Tensor) -> tuple[Tensor, Tensor]:
            objective = _targeted_ratio(surface, labels, target)
            return auto_pgd(objective, labels, ball.random_point(noise), ball, steps=self.config.steps)

        def art(target: Tensor) -> tuple[Tensor, Tensor]:
            images = self._art(surface, x, target)
            with torch.no_grad():
                return images, margin(surface(images), labels)

        aim: Callable[[Tensor], tuple[Tensor, Tensor]] = art if self.config.backend == "art" else native
        with torch.no_grad():
            others = surface(x).scatter(1, labels[:, None], float("-inf"))
        aims = min(self.config.classes, surface.num_classes - 1)
        targets = others.argsort(dim=1, descending=True)[:, :aims]
        best, best_margin = aim(targets[:, 0])
        for target in targets.T[1:]:
            images, margins = aim(target)
            better = margins > best_margin
            best = torch.where(per_image(better), images, best)
            best_margin = torch.maximum(best_margin, margins)
        return best

    def _art(self, surface: Surface, x: Tensor, target: Tensor) -> Tensor:
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
                nb_random_init=1,
                targeted=True,
                batch_size=len(x),
                loss_type="difference_logits_ratio",
                verbose=False,
            ),
            surface,
            x,
            target,
        )


def _targeted_ratio(surface: Surface, labels: Tensor, target: Tensor) -> Objective:
    def objective(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = surface(images)
            best = logits.topk(_FEWEST_CLASSES, dim=1).values
            scale = best[:, 0] - (best[:, 2] + best[:, 3]) / 2
            ahead = logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None])
            loss = ahead.squeeze(1) / (scale + 1e-12)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        return gradient, loss.detach(), logits.detach()

    return objective
