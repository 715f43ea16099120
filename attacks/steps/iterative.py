"""Projected steps along the gradient inside a ball, shared by BIM, PGD and MIM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from benchmark.attacks.adapters.backends import MultiBackendAttack, TargetedBackendConfig
from benchmark.attacks.steps.goal import Goal, Loss
from torch import Tensor
from typing_extensions import Self

from benchmark.api import Ball, Noise, Surface, choose, param, per_image, sweep, unit

_TINY = 1e-12


class IterativeConfig(TargetedBackendConfig):
    """`eps`: radius of the L∞ ball; `alpha`: step size, by default `2.5 · eps / steps`.

    `loss`: `ce`, the cross-entropy, or `margin`, the best wrong logit minus the true one.
    """

    eps: float = sweep(ge=0, le=1)
    steps: int = param(40, ge=1)
    alpha: float | None = param(None, gt=0, le=1000)
    loss: Loss = "ce"

    @property
    def step(self) -> float:
        """The step size."""
        return self.alpha if self.alpha is not None else 2.5 * self.eps / self.steps


IterativeConfigT = TypeVar("IterativeConfigT", bound=IterativeConfig)


class IterativeAttack(MultiBackendAttack[IterativeConfigT]):
    """Base class of attacks by projected gradient steps: stronger variants and other losses."""

    scalable = True
    takes_start = True

    def with_more_steps(self, times: int) -> Self:
        return self.with_options(steps=times * self.config.steps)

    def unbounded(self) -> Self:
        return super().unbounded().with_options(alpha=None)

    def losses(self) -> Sequence[Self]:
        if self.config.backend != "native":
            return (self,)
        return (self, self.with_options(loss="margin" if self.config.loss == "ce" else "ce"))

    def with_options(self, **options: Any) -> Self:
        """The same attack with some options changed."""
        return type(self)(type(self.config)(**{**self.config.model_dump(), **options}))

    @property
    def decay(self) -> float | None:
        """The decay factor μ of the momentum; None to step along the gradient itself."""
        return None

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        """One run in the L∞ ball, from the clean image if there is no `start`."""
        ball = Ball(x, self.config.eps, "linf")
        return self.run_steps(surface, goal, x if start is None else start, ball)[0]

    def art_options(self, goal: Goal) -> dict[str, Any]:
        """The arguments that ART's BIM, PGD and MIM have in common."""
        return {
            "eps": self.config.eps,
            "eps_step": self.config.step,
            "max_iter": self.config.steps,
            "targeted": goal.target is not None,
            "verbose": False,
        }

    def foolbox_options(self) -> dict[str, Any]:
        """The arguments that Foolbox's BIM, PGD and MIM have in common."""
        return {"abs_stepsize": self.config.step, "steps": self.config.steps}

    def run_steps(self, surface: Surface, goal: Goal, start: Tensor, ball: Ball) -> tuple[Tensor, Tensor]:
        """Run the steps, each in the steepest direction of the ball's norm.

        With a decay μ the direction is that of the momentum g ← μ · g + ∇ / mean |∇| and not of the gradient
        ∇ itself (Dong et al. 2018, with the mean in place of the L1 norm).

        Returns:
            For each image the iterate with the largest margin of the goal, and that margin, shape (B,).
        """
        steps = self.config.steps
        current, momentum = start, None
        best, best_margin = start, torch.full((len(start),), float("-inf"), device=start.device)
        for step in range(steps + 1):
            if step < steps:
                gradient, logits = goal.gradient(surface, current, self.config.loss)
            else:
                with torch.no_grad():
                    logits = surface(current)
            margins = goal.margin(logits)
            better = margins >= best_margin
            best, best_margin = choose(better, current, best), torch.where(better, margins, best_margin)
            if step < steps:
                if self.decay is not None:
                    gradient = unit(gradient)
                    size = gradient.abs().flatten(1).mean(dim=1).clamp_min(_TINY)
                    gradient = gradient / per_image(size)
                    momentum = gradient if momentum is None else momentum.mul_(self.decay).add_(gradient)
                    gradient = momentum
                current = ball.project(current + self.config.step * ball.direction(gradient))
        return best, best_margin
