"""Auto-PGD on the targeted difference of logits ratio (Croce and Hein 2020, arXiv 2003.01690)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from benchmark.attacks.steps.auto_pgd import AutoPgd, AutoPgdConfig, Objective, auto_pgd
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Ball, Noise, Surface, attack, margin, most_wrong, param

_MIN_CLASSES = 4


class ApgdDlrTargetedConfig(AutoPgdConfig):
    """`eps`: radius of the ball of `distance`; `classes`: number of target classes, highest logits first."""

    classes: int = param(9, ge=1)


@attack("apgd-dlr-targeted")
class ApgdDlrTargeted(AutoPgd[ApgdDlrTargetedConfig]):
    """Runs Auto-PGD on the targeted DLR loss once per target class and keeps the largest margin.

    The targets are the wrong classes with the highest logits on the clean image. The loss (target logit −
    true logit) / (highest − mean of third and fourth highest logit) is invariant to shifts and scaling of
    the logits and needs four classes. ART's targeted mode uses another loss: the untargeted ratio with the
    target in place of the true class.
    """

    weak_backends = frozenset({"art"})

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        if surface.num_classes < _MIN_CLASSES:
            raise ValueError(f"apgd-dlr-targeted needs four classes or more, got {surface.num_classes}")
        ball = Ball(x, self.config.eps, self.config.distance)

        def native(target: Tensor) -> tuple[Tensor, Tensor]:
            objective = _targeted_dlr(surface, labels, target)
            return auto_pgd(objective, labels, ball.random_point(noise), ball, steps=self.config.steps)

        def art(target: Tensor) -> tuple[Tensor, Tensor]:
            settings = {"targeted": True, "nb_random_init": 1, "loss_type": "difference_logits_ratio"}
            images = self.art(surface, x, Goal(labels, target), **settings)
            with torch.no_grad():
                return images, margin(surface(images), labels)

        run: Callable[[Tensor], tuple[Tensor, Tensor]] = art if self.config.backend == "art" else native
        with torch.no_grad():
            wrong_logits = surface(x).scatter(1, labels[:, None], float("-inf"))
        count = min(self.config.classes, surface.num_classes - 1)
        targets = wrong_logits.argsort(dim=1, descending=True)[:, :count]
        return most_wrong(run(target) for target in targets.T)


def _targeted_dlr(surface: Surface, labels: Tensor, target: Tensor) -> Objective:
    def objective(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = surface(images)
            highest = logits.topk(_MIN_CLASSES, dim=1).values
            scale = highest[:, 0] - (highest[:, 2] + highest[:, 3]) / 2
            difference = logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None])
            loss = difference.squeeze(1) / (scale + 1e-12)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        return gradient, loss.detach(), logits.detach()

    return objective
