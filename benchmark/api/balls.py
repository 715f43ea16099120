"""The L∞ and L2 balls that gradient attacks stay in, and operations on batches of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor

from benchmark.api.losses import unit
from benchmark.api.noise import Noise
from benchmark.plugins.plugin import Config, sweep

BallNorm = Literal["linf", "l2"]

_TINY = 1e-12


class BallConfig(Config):
    """`eps`: radius of the ball of `distance`, on the [0, 1] scale."""

    distance: BallNorm = "linf"
    eps: float = sweep(ge=0, le=1000)

    @field_validator("eps")
    @classmethod
    def _within_the_box(cls, eps: float, info: ValidationInfo) -> float:
        if info.data.get("distance") == "linf" and eps > 1:
            raise ValueError("should be less than or equal to 1: no L∞ ball is larger than the box [0, 1]")
        return eps


@dataclass(frozen=True, eq=False)
class Ball:
    """The images within `eps` of `centre` (B, C, H, W) and in the box [0, 1]."""

    centre: Tensor
    eps: float
    norm: BallNorm

    @cached_property
    def _corners(self) -> tuple[Tensor, Tensor]:
        """The lowest and highest pixel values of an L∞ ball in the box."""
        return (self.centre - self.eps).clamp_(min=0), (self.centre + self.eps).clamp_(max=1)

    def project(self, point: Tensor) -> Tensor:
        """Project into the ball, then into the box; the second step does not leave the ball."""
        if self.norm == "linf":
            return torch.clamp(point, *self._corners)
        offset = point - self.centre
        shrink = (self.eps / lengths(offset).clamp_min(_TINY)).clamp_max(1)
        return (self.centre + per_image(shrink) * offset).clamp_(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The unit direction of steepest ascent: the sign of the gradient, or the normalised gradient."""
        if self.norm == "linf":
            return gradient.sign()
        scaled = unit(gradient)
        return scaled / per_image(lengths(scaled).clamp_min(_TINY))

    def random_point(self, noise: Noise) -> Tensor:
        """A point drawn uniformly from the ball, then projected into the box."""
        if self.norm == "linf":
            offset = noise.uniform_like(self.centre).mul_(2).sub_(1)
        else:
            normal = noise.normal_like(self.centre)
            pixels = self.centre[0].numel()
            radius = noise.uniform_like(self.centre.new_empty(len(self.centre))).pow(1 / pixels)
            offset = normal * per_image(radius / lengths(normal).clamp_min(_TINY))
        return (self.centre + self.eps * offset).clamp_(0, 1)


def lengths(images: Tensor) -> Tensor:
    """The Euclidean norm of each image, shape (B,)."""
    return torch.linalg.vector_norm(images.flatten(1), dim=1)  # type: ignore[no-any-return]


def per_image(numbers: Tensor) -> Tensor:
    """Numbers of shape (B,) as (B, 1, 1, 1), to broadcast over (B, C, H, W)."""
    return numbers[:, None, None, None]


def choose(mask: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """For each image the one from `images` if `mask` (B,) is true, else the one from `others`."""
    return torch.where(per_image(mask), images, others)


def most_wrong(runs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """For each image the one with the largest margin over several runs; the first if margins are equal.

    `runs` has the images (B, C, H, W) and margins (B,) of each run, at least one.
    """
    remaining = iter(runs)
    best, best_margin = next(remaining)
    for images, margins in remaining:
        better = margins > best_margin
        best, best_margin = choose(better, images, best), torch.where(better, margins, best_margin)
    return best
