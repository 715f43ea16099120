"""The goal of an attack: any wrong class (untargeted), or one target class for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmark.api import Config, Noise, Surface, loss_gradient, margin

Loss = Literal["ce", "margin"]

_TARGET_SEED = 20170210
"""Seed of the random targets, so that all attacks, libraries and radii get the same ones."""


@dataclass(frozen=True, eq=False)
class Goal:
    """Any class but `labels` (B,) is the goal, or exactly the class `target` (B,) if there is one."""

    labels: Tensor
    target: Tensor | None = None

    def margin(self, logits: Tensor) -> Tensor:
        """The margin (B,) by which the goal is reached: a difference of logits, positive if reached."""
        return margin(logits, self.labels) if self.target is None else -margin(logits, self.target)

    def gradient(self, surface: Surface, x: Tensor, loss: Loss = "ce") -> tuple[Tensor, Tensor]:
        """The ascent direction towards the goal, up to a positive factor for each image, and the logits.

        The loss is the cross-entropy, or the margin, which depends only on the best wrong class.
        """
        if loss == "margin":
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                logits = surface(x)
                total = self.margin(logits).sum()
            return torch.autograd.grad(total, x)[0], logits.detach()
        if self.target is None:
            return loss_gradient(surface, x, self.labels)
        gradient, logits = loss_gradient(surface, x, self.target)
        return -gradient, logits

    def take(self, which: Tensor | slice) -> Goal:
        """The goal for some of the images: by mask, indices or slice."""
        return Goal(self.labels[which], None if self.target is None else self.target[which])


class TargetedConfig(Config):
    """`targeted`: how the target class is chosen, or false for any wrong class.

    `next` is the class after the true one. `random` draws one class for each image, the same for all
    attacks. `least-likely` is the class with the lowest logit on the clean image (Kurakin et al. 2017,
    "Adversarial Examples in the Physical World", section 2.3).
    """

    targeted: Literal[False, "next", "random", "least-likely"] = False

    def goal(self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise) -> Goal:
        """The goal for clean images `x`; queries the surface only for `least-likely`."""
        if self.targeted is False:
            return Goal(labels)
        classes = surface.num_classes
        if self.targeted == "next":
            return Goal(labels, (labels + 1) % classes)
        if self.targeted == "random":
            drawn = Noise(_TARGET_SEED, noise.indices).uniform_like(torch.empty(len(x), device=x.device))
            return Goal(labels, (labels + 1 + (drawn * (classes - 1)).long()) % classes)
        with torch.no_grad():
            logits = surface(x)
        return Goal(labels, logits.scatter(1, labels[:, None], float("inf")).argmin(dim=1))
