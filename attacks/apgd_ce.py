"""Auto-PGD on the cross-entropy (Croce and Hein 2020, arXiv 2003.01690)."""

from __future__ import annotations

from benchmark.attacks.steps.auto_pgd import AutoPgd, AutoPgdConfig, auto_pgd
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Ball, Noise, Surface, attack, loss_gradient, most_wrong, param


class ApgdCeConfig(AutoPgdConfig):
    """`eps`: radius of the ball of `distance`; `restarts`: number of runs, each from a random start."""

    restarts: int = param(1, ge=1)


@attack("apgd-ce")
class ApgdCe(AutoPgd[ApgdCeConfig]):
    """Increases the cross-entropy by Auto-PGD, which adapts its step size; part of AutoAttack.

    The step size is adapted by the loss log Σ exp(wrong logits) − true logit. It increases with the
    cross-entropy, but does not underflow to 0 if the classifier is confident.
    """

    takes_start = True

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        if self.config.backend == "art":
            restarts = self.config.restarts
            return self.art(surface, x, Goal(labels), nb_random_init=restarts, loss_type="cross_entropy")
        ball = Ball(x, self.config.eps, self.config.distance)

        def objective(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            gradient, logits = loss_gradient(surface, images, labels)
            own = logits.gather(1, labels[:, None]).squeeze(1)
            others = logits.scatter(1, labels[:, None], float("-inf"))
            return gradient, others.logsumexp(dim=1) - own, logits

        starts = [ball.random_point(noise) for _ in range(self.config.restarts)] if start is None else [start]
        steps = self.config.steps
        return most_wrong(auto_pgd(objective, labels, point, ball, steps=steps) for point in starts)
