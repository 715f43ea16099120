"""Auto-PGD on the targeted difference of logits ratio, APGD-T (Croce and Hein 2020, arXiv 2003.01690)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.auto_pgd import AutoPgd, AutoPgdConfig, Objective, auto_pgd
from attacks.ball import Ball, most_wrong
from attacks.contract import Surface, attack
from attacks.goal import Goal
from attacks.gradients import margin
from benchmark.noise import Noise
from benchmark.plugin import param

_FEWEST_CLASSES = 4


class ApgdDlrTargetedConfig(AutoPgdConfig):
    """`eps`: radius of the ball of `distance`; `classes`: how many wrong classes are aimed at, best first."""

    classes: int = param(9, ge=1)


@attack("apgd-dlr-targeted")
class ApgdDlrTargeted(AutoPgd[ApgdDlrTargetedConfig]):
    """One ascent for each of the classes that score best on the clean image; the most wrong image counts.

    Its loss, (target score − true score) / (best − mean of third and fourth), does not change when scores are
    shifted or scaled, and needs four classes. ART's targeted mode takes another loss: the untargeted ratio
    with the target in place of the true class.
    """

    weak_backends = frozenset({"art"})

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
            ratio = "difference_logits_ratio"
            images = self.art(
                surface, x, Goal(labels, target), targeted=True, nb_random_init=1, loss_type=ratio
            )
            with torch.no_grad():
                return images, margin(surface(images), labels)

        aim: Callable[[Tensor], tuple[Tensor, Tensor]] = art if self.config.backend == "art" else native
        with torch.no_grad():
            others = surface(x).scatter(1, labels[:, None], float("-inf"))
        aims = min(self.config.classes, surface.num_classes - 1)
        targets = others.argsort(dim=1, descending=True)[:, :aims]
        return most_wrong(aim(target) for target in targets.T)


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
