"""Auto-PGD, the ascent behind `apgd-ce` and `apgd-dlr-targeted` (Croce and Hein 2020, "Reliable Evaluation of
Adversarial Robustness with an Ensemble of Diverse Parameter-Free Attacks", section 4 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from attacks.backends import LibraryConfig
from attacks.ball import Ball, BallConfig, choose, per_image
from attacks.contract import Attack, Surface
from attacks.goal import Goal
from attacks.gradients import margin
from benchmark.plugin import Norm, param

Objective = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From images to the gradient (up to a positive factor for each image), the loss (B,), and the logits."""

_MOMENTUM = 0.75
_RISING_SHARE = 0.75


class AutoPgdConfig(BallConfig, LibraryConfig):
    """`eps`: radius of the ball of `distance`."""

    steps: int = param(100, ge=1)
    backend: Literal["native", "art"] = "native"


AutoPgdConfigT = TypeVar("AutoPgdConfigT", bound=AutoPgdConfig)


class AutoPgd(Attack[AutoPgdConfigT]):
    """What the attacks by Auto-PGD share: their facts, and the way through ART."""

    stochastic = True
    grows = True

    def harder(self, times: int) -> Self:
        fields = ("steps", "restarts") if "restarts" in type(self.config).model_fields else ("steps",)
        more = {name: times * getattr(self.config, name) for name in fields}
        return type(self)(type(self.config)(**{**self.config.model_dump(), **more}))

    @property
    def norm(self) -> Norm:
        return self.config.distance

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """Only with enough steps for its step size to settle."""
        return self.config.steps >= 10

    def art(self, surface: Surface, x: Tensor, goal: Goal, **settings: Any) -> Tensor:
        """Images of ART's Auto-PGD with these settings beside those of the configuration."""
        from art.attacks.evasion import AutoProjectedGradientDescent

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: AutoProjectedGradientDescent(
                classifier,
                norm={"linf": "inf", "l2": 2}[config.distance],
                eps=config.eps,
                eps_step=2 * config.eps,
                max_iter=config.steps,
                batch_size=len(x),
                verbose=False,
                **settings,
            ),
            surface,
            x,
            goal,
            config.eps,
        )


def auto_pgd(
    objective: Objective, labels: Tensor, start: Tensor, ball: Ball, *, steps: int
) -> tuple[Tensor, Tensor]:
    """Ascent with momentum whose step size halves, image by image, where progress stalls.

    Steps begin at twice the radius. At checkpoints that come ever closer, an image whose loss rose in less
    than three quarters of the steps since the last one, or whose best loss stands still although its step
    was not just halved, goes back to its best point with half the step.

    Args:
        objective: What to increase.
        labels: True labels (B,), by which the most wrong iterate is told.
        start: Images in the ball.
        ball: Where to stay.
        steps: Number of steps; `steps + 1` calls of the objective.

    Returns:
        For each image the iterate that is scored as most wrong, and its margin, shape (B,).
    """
    current = previous = best = wrong = start
    gradient, loss, logits = objective(current)
    best_loss, best_gradient, wrong_margin = loss, gradient, margin(logits, labels)
    step = torch.full_like(loss, 2 * ball.eps)
    rises, halved, best_before = torch.zeros_like(loss), torch.ones_like(loss, dtype=torch.bool), loss
    windows = _windows(steps)
    window = left = next(windows)
    for index in range(steps):
        moved = ball.project(current + per_image(step) * ball.direction(gradient))
        share = _MOMENTUM if index > 0 else 1.0
        moved = ball.project(current + share * (moved - current) + (1 - share) * (current - previous))
        previous, current, loss_before = current, moved, loss
        gradient, loss, logits = objective(current)
        rises += loss > loss_before
        better = loss > best_loss
        best, best_gradient = choose(better, current, best), choose(better, gradient, best_gradient)
        best_loss = torch.where(better, loss, best_loss)
        margins = margin(logits, labels)
        worse = margins > wrong_margin
        wrong, wrong_margin = choose(worse, current, wrong), torch.where(worse, margins, wrong_margin)
        left -= 1
        if left == 0:
            halved = (rises < _RISING_SHARE * window) | (~halved & (best_loss <= best_before))
            step = torch.where(halved, step / 2, step)
            current, gradient = choose(halved, best, current), choose(halved, best_gradient, gradient)
            rises, best_before = torch.zeros_like(rises), best_loss
            window = left = next(windows)
    return wrong, wrong_margin


def _windows(steps: int) -> Iterator[int]:
    """Steps between checkpoints: 22 % of all, then 3 % fewer each time, never less than 6 %."""
    window, smallest, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    while True:
        yield window
        window = max(window - less, smallest)
