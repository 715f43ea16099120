"""The ball that an attack stays in, for both norms that gradients are followed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmark.noise import Noise

BallNorm = Literal["linf", "l2"]

_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Ball:
    """The images within `eps` of `centre` (B, C, H, W) that are in the box [0, 1] as well."""

    centre: Tensor
    eps: float
    norm: BallNorm

    def project(self, point: Tensor) -> Tensor:
        """The point moved into the ball, then into the box, which takes it no farther from the centre."""
        if self.norm == "linf":
            low, high = self.centre - self.eps, self.centre + self.eps
            return torch.clamp(point, low, high).clamp_(0, 1)
        offset = point - self.centre
        shrink = (self.eps / lengths(offset).clamp_min(_TINY)).clamp_max(1)
        return (self.centre + per_image(shrink) * offset).clamp_(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction of length one in the norm: the sign, or the gradient over its length."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / per_image(lengths(gradient).clamp_min(_TINY))

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
