"""Auto-PGD on the cross-entropy (Croce and Hein 2020, arXiv 2003.01690, section 4)."""

from __future__ import annotations

from torch import Tensor

from attacks.auto_pgd import AutoPgd, AutoPgdConfig, auto_pgd
from attacks.ball import Ball, most_wrong
from attacks.contract import Surface, attack
from attacks.goal import Goal
from attacks.gradients import loss_gradient
from benchmark.noise import Noise
from benchmark.plugin import param


class ApgdCeConfig(AutoPgdConfig):
    """`eps`: radius of the ball of `distance`. `restarts` counts runs, each from a random start."""

    restarts: int = param(1, ge=1)


@attack("apgd-ce")
class ApgdCe(AutoPgd[ApgdCeConfig]):
    """Ascent of the cross-entropy with momentum and a step size that sets itself; part of AutoAttack.

    The loss that steers the step size is log Σ exp(other scores) − true score. It rises and falls with the
    cross-entropy, but does not run into zero where the classifier is sure.
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
        return most_wrong(
            auto_pgd(objective, labels, begin, ball, steps=self.config.steps) for begin in starts
        )
