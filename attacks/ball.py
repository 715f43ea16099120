"""The ball that an attack stays in, for both norms that gradients are followed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor

from attacks.gradients import unit
from benchmark.noise import Noise
from benchmark.plugin import Config, sweep

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
    """The images within `eps` of `centre` (B, C, H, W) that are in the box [0, 1] as well."""

    centre: Tensor
    eps: float
    norm: BallNorm

    @cached_property
    def _corners(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest values of an L∞ ball inside the box."""
        return (self.centre - self.eps).clamp_(min=0), (self.centre + self.eps).clamp_(max=1)

    def project(self, point: Tensor) -> Tensor:
        """The point moved into the ball, then into the box, which takes it no farther from the centre."""
        if self.norm == "linf":
            return torch.clamp(point, *self._corners)
        offset = point - self.centre
        shrink = (self.eps / lengths(offset).clamp_min(_TINY)).clamp_max(1)
        return (self.centre + per_image(shrink) * offset).clamp_(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction of length one in the norm: the sign, or the gradient over its length."""
        if self.norm == "linf":
            return gradient.sign()
        scaled = unit(gradient)
        return scaled / per_image(lengths(scaled).clamp_min(_TINY))

    def random_point(self, noise: Noise) -> Tensor:
        """A point drawn evenly from the ball, then moved into the box."""
        if self.norm == "linf":
            offset = noise.uniform_like(self.centre).mul_(2).sub_(1)
        else:
            normal = noise.normal_like(self.centre)
            pixels = self.centre[0].numel()
            radius = noise.uniform_like(self.centre.new_empty(len(self.centre))).pow(1 / pixels)
            offset = normal * per_image(radius / lengths(normal).clamp_min(_TINY))
        return (self.centre + self.eps * offset).clamp_(0, 1)


def lengths(images: Tensor) -> Tensor:
    """The Euclidean length of each image, shape (B,)."""
    size: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return size


def per_image(numbers: Tensor) -> Tensor:
    """One number for each image, shaped to go with (B, C, H, W)."""
    return numbers[:, None, None, None]


def choose(which: Tensor, there: Tensor, here: Tensor) -> Tensor:
    """For each image the one from `there` where `which` (B,) says so, or else the one from `here`."""
    return torch.where(per_image(which), there, here)


def most_wrong(found: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """For each image the one of the largest margin, from pairs of images and margins; the first of equals."""
    runs = iter(found)
    best, best_margin = next(runs)
    for images, margins in runs:
        better = margins > best_margin
        best, best_margin = choose(better, images, best), torch.where(better, margins, best_margin)
    return best
