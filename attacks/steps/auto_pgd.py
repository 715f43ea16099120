"""Auto-PGD, the optimiser of `apgd-ce` and `apgd-dlr-targeted`.

Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-Free
Attacks", arXiv 2003.01690.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.backends import BackendConfig
from benchmark.attacks.steps.goal import Goal
from torch import Tensor
from typing_extensions import Self

from benchmark.api import Attack, Ball, BallConfig, Surface, choose, margin, param, per_image

Objective = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps images to the gradient (up to a positive factor for each image), the loss (B,), and the logits."""

_MOMENTUM = 0.75  # α in the paper
_MIN_INCREASES = 0.75  # ρ in the paper


class AutoPgdConfig(BallConfig, BackendConfig):
    """`eps`: radius of the ball of `distance`."""

    steps: int = param(100, ge=1)
    backend: Literal["native", "art"] = "native"


AutoPgdConfigT = TypeVar("AutoPgdConfigT", bound=AutoPgdConfig)


class AutoPgd(Attack[AutoPgdConfigT]):
    """Base class of the attacks that use Auto-PGD, natively or through ART."""

    stochastic = True
    scalable = True

    def with_more_steps(self, times: int) -> Self:
        fields = ("steps", "restarts") if "restarts" in type(self.config).model_fields else ("steps",)
        more = {name: times * getattr(self.config, name) for name in fields}
        return type(self)(type(self.config)(**{**self.config.model_dump(), **more}))

    @property
    def mandatory(self) -> bool:  # type: ignore[override]
        """True from ten steps on: with fewer the step size cannot adapt."""
        return self.config.steps >= 10

    def art(self, surface: Surface, x: Tensor, goal: Goal, **settings: Any) -> Tensor:
        """Run ART's Auto-PGD with these settings in addition to those of the configuration."""
        config = self.config
        options = {
            "norm": {"linf": "inf", "l2": 2}[config.distance],
            "eps": config.eps,
            "eps_step": 2 * config.eps,
            "max_iter": config.steps,
            "verbose": False,
        }
        return run_art("AutoProjectedGradientDescent", options | settings, surface, x, goal, config.eps)


def auto_pgd(
    objective: Objective, labels: Tensor, start: Tensor, ball: Ball, *, steps: int
) -> tuple[Tensor, Tensor]:
    """Gradient ascent with momentum and a step size that is halved for each image whose progress stalls.

    The step size begins at 2 · eps. It is checked at checkpoints. An image restarts from its best point with
    half the step size if its loss increased in less than 75 % of the steps since the last checkpoint
    (condition 1 of the paper), or if its best loss did not improve and its step size was not halved at the
    last checkpoint (condition 2).

    Args:
        objective: The loss to increase.
        labels: True labels (B,), for the margin.
        start: Images in the ball to start from.
        ball: The ball that the images stay in.
        steps: Number of steps; the objective is called `steps + 1` times.

    Returns:
        For each image the iterate with the largest margin, and that margin, shape (B,).
    """
    current = previous = best = adversarial = start
    gradient, loss, logits = objective(current)
    best_loss, best_gradient, best_margin = loss, gradient, margin(logits, labels)
    step_size = torch.full_like(loss, 2 * ball.eps)
    increases, halved = torch.zeros_like(loss), torch.ones_like(loss, dtype=torch.bool)
    checkpoint_loss = loss
    periods = _checkpoint_periods(steps)
    period = remaining = next(periods)
    for step in range(steps):
        momentum = _MOMENTUM if step > 0 else 1.0
        candidate = ball.project(current + per_image(step_size) * ball.direction(gradient))
        candidate = ball.project(
            current + momentum * (candidate - current) + (1 - momentum) * (current - previous)
        )
        previous, current, previous_loss = current, candidate, loss
        gradient, loss, logits = objective(current)
        increases += loss > previous_loss
        improved = loss > best_loss
        best, best_gradient = choose(improved, current, best), choose(improved, gradient, best_gradient)
        best_loss = torch.where(improved, loss, best_loss)
        margins = margin(logits, labels)
        larger = margins > best_margin
        adversarial = choose(larger, current, adversarial)
        best_margin = torch.where(larger, margins, best_margin)
        remaining -= 1
        if remaining == 0:
            halved = (increases < _MIN_INCREASES * period) | (~halved & (best_loss <= checkpoint_loss))
            step_size = torch.where(halved, step_size / 2, step_size)
            current, gradient = choose(halved, best, current), choose(halved, best_gradient, gradient)
            increases, checkpoint_loss = torch.zeros_like(increases), best_loss
            period = remaining = next(periods)
    return adversarial, best_margin


def _checkpoint_periods(steps: int) -> Iterator[int]:
    """Yield the numbers of steps between checkpoints: 22 %, 19 %, 16 %, … and at last 6 % of all steps."""
    period, shortest, decrement = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    while True:
        yield period
        period = max(period - decrement, shortest)
