"""Steps along the gradient inside a ball: what BIM, PGD and MIM share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from attacks.backends import Backed, BackedConfig
from attacks.ball import Ball, per_image
from attacks.contract import Surface
from attacks.goal import Goal, Loss
from attacks.gradients import unit
from benchmark.plugin import param, sweep

_TINY = 1e-12


class AscentConfig(BackedConfig):
    """`eps`: radius of the L∞ ball; `alpha`: length of a step, default `2.5 · eps / steps`.

    `loss`: `ce`, the cross-entropy, or `margin`, the best wrong score less the true one.
    """

    eps: float = sweep(ge=0, le=1)
    steps: int = param(40, ge=1)
    alpha: float | None = param(None, gt=0, le=1000)
    loss: Loss = "ce"

    @property
    def step(self) -> float:
        """The length of a step."""
        return self.alpha if self.alpha is not None else 2.5 * self.eps / self.steps


AscentConfigT = TypeVar("AscentConfigT", bound=AscentConfig)


class Ascent(Backed[AscentConfigT]):
    """What the attacks by steps along the gradient share: how to run more of them, and along another one."""

    grows = True
    takes_start = True

    def harder(self, times: int) -> Self:
        return self.changed(steps=times * self.config.steps)

    def unbounded(self) -> Self:
        return super().unbounded().changed(alpha=None)

    def losses(self) -> Sequence[Self]:
        if self.config.backend != "native":
            return (self,)
        return (self, self.changed(loss="margin" if self.config.loss == "ce" else "ce"))

    def changed(self, **fields: Any) -> Self:
        """The attack with other values of some fields."""
        return type(self)(type(self.config)(**{**self.config.model_dump(), **fields}))


def ascend(
    surface: Surface,
    goal: Goal,
    start: Tensor,
    ball: Ball,
    *,
    alpha: float,
    steps: int,
    loss: Loss = "ce",
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
            gradient, logits = goal.gradient(surface, current, loss)
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
