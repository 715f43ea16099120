"""Steps along the gradient inside a ball: what BIM, PGD and MIM share."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.backends import BackedConfig
from attacks.ball import Ball, per_image
from attacks.contract import Surface
from attacks.goal import Goal
from attacks.gradients import unit
from benchmark.plugin import param, sweep

_TINY = 1e-12


class AscentConfig(BackedConfig):
    """`eps`: radius of the L∞ ball; `alpha`: length of a step, default `2.5 · eps / steps`."""

    eps: float = sweep(ge=0, le=1)
    steps: int = param(40, ge=1)
    alpha: float | None = param(None, gt=0, le=1000)

    @property
    def step(self) -> float:
        """The length of a step."""
        return self.alpha if self.alpha is not None else 2.5 * self.eps / self.steps


def ascend(
    surface: Surface,
    goal: Goal,
    start: Tensor,
    ball: Ball,
    *,
    alpha: float,
    steps: int,
    decay: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Steps of length `alpha`, each in the steepest direction of the ball's norm.

    With `decay` the direction is not the gradient's own but that of a running sum of gradients, each over
    its mean absolute value, of which that share is kept at each step (Dong et al. 2018).

    Returns:
        For each image the iterate that the surface scores as nearest to the goal or farthest beyond, and its
        margin, shape (B,).
    """
    current, momentum = start, None
    best, best_margin = start, torch.full((len(start),), float("-inf"), device=start.device)
    for step in range(steps + 1):
        if step < steps:
            gradient, logits = goal.gradient(surface, current)
        else:
            with torch.no_grad():
                logits = surface(current)
        margins = goal.margin(logits)
        better = margins >= best_margin
        best = torch.where(per_image(better), current, best)
        best_margin = torch.where(better, margins, best_margin)
        if step < steps:
            if decay is not None:
                gradient = unit(gradient)
                size = gradient.abs().flatten(1).mean(dim=1).clamp_min(_TINY)
                gradient = gradient / per_image(size)
                momentum = gradient if momentum is None else momentum.mul_(decay).add_(gradient)
                gradient = momentum
            current = ball.project(current + alpha * ball.direction(gradient))
    return best, best_margin
