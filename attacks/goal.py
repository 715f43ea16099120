"""What an attack aims at: any wrong class, or one class for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.contract import Surface
from attacks.gradients import loss_gradient, margin
from benchmark.noise import Noise
from benchmark.plugin import Config

Loss = Literal["ce", "margin"]

_TARGETS = 20170210
"""Seed of the random targets: two attacks, libraries or radii have to aim at the same ones."""


@dataclass(frozen=True, eq=False)
class Goal:
    """To be wrong about `labels` (B,), or where `target` (B,) is given, to be taken for that class."""

    labels: Tensor
    target: Tensor | None = None

    def margin(self, logits: Tensor) -> Tensor:
        """How far the goal is reached, shape (B,): a difference of scores, positive when it is."""
        return margin(logits, self.labels) if self.target is None else -margin(logits, self.target)

    def gradient(self, surface: Surface, x: Tensor, loss: Loss = "ce") -> tuple[Tensor, Tensor]:
        """The direction that leads there (up to a positive factor for each image), and the logits.

        By the cross-entropy, or by the margin, which looks at the best wrong class alone.
        """
        if loss == "margin":
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                logits = surface(x)
                reached = self.margin(logits).sum()
            return torch.autograd.grad(reached, x)[0], logits.detach()
        if self.target is None:
            return loss_gradient(surface, x, self.labels)
        away, logits = loss_gradient(surface, x, self.target)
        return -away, logits

    def take(self, which: Tensor | slice) -> Goal:
        """The goal for some of the images: by mask, indices or slice."""
        return Goal(self.labels[which], None if self.target is None else self.target[which])


class AimedConfig(Config):
    """`targeted`: the class to be taken for, or false for any wrong one.

    `next` is the one after the true class; `random` was drawn once for each image, the same for all attacks;
    `least-likely` scores lowest on the clean image (Kurakin et al. 2017).
    """

    targeted: Literal[False, "next", "random", "least-likely"] = False

    def goal(self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise) -> Goal:
        """The goal for clean images `x`; asks the surface only where the choice depends on it."""
        if self.targeted is False:
            return Goal(labels)
        classes = surface.num_classes
        if self.targeted == "next":
            return Goal(labels, (labels + 1) % classes)
        if self.targeted == "random":
            drawn = Noise(_TARGETS, noise.indices).uniform_like(torch.empty(len(x), device=x.device))
            return Goal(labels, (labels + 1 + (drawn * (classes - 1)).long()) % classes)
        with torch.no_grad():
            scores = surface(x)
        return Goal(labels, scores.scatter(1, labels[:, None], float("inf")).argmin(dim=1))
