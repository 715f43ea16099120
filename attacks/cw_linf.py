"""The L∞ attack of Carlini and Wagner 2017 (section VI-C): native and through ART."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.steps.carlini_wagner import (
    ConstrainedBatch,
    ConstraintSearchAttack,
    ConstraintSearchConfig,
)
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Noise, Surface, attack, param, per_image

_CLOSE_ENOUGH = 0.98
_MAX_FAILURES = 10


class CwLinfConfig(ConstraintSearchConfig):
    """`decrease`: after a success the next limit τ is this share of the largest change found.

    ART counts an image that is not yet of the target class as a success, so it has no `targeted`.
    """

    unsupported_options: ClassVar = {"art": frozenset({"targeted"})}

    steps: int = param(25, ge=1)
    decrease: float = param(0.9, gt=0, lt=1)


@attack("cw-linf")
class CwLinf(ConstraintSearchAttack[CwLinfConfig]):
    """Lowers the limit τ on the change of each pixel as long as an adversarial example is found.

    The paper minimises c times the margin loss plus the changes beyond τ, and has to search for c. Here the
    images are projected onto the limit instead. After the first failure τ is bisected until it is within 2 %
    of the distance of the closest adversarial example.
    """

    norm = "linf"
    weak_backends = frozenset({"art"})

    @property
    def max_failures(self) -> int:
        return _MAX_FAILURES

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        return self.search(surface, x, goal, torch.ones(len(x), device=x.device))

    def distances(self, batch: ConstrainedBatch) -> Tensor:
        return (batch.images - batch.clean).abs().flatten(1).amax(dim=1)

    def objective_gradient(self, batch: ConstrainedBatch, margin_loss_gradient: Tensor) -> Tensor:
        return margin_loss_gradient

    def tightened(self, batch: ConstrainedBatch, gradient: Tensor) -> Tensor:
        distance = torch.minimum(batch.constraint, self.distances(batch))
        return torch.maximum(self.config.decrease * distance, (batch.failed_constraint + distance) / 2)

    def project(self, batch: ConstrainedBatch) -> Tensor:
        limit = per_image(batch.constraint)
        return batch.clean + (batch.images - batch.clean).clamp(-limit, limit)

    def relax(self, batch: ConstrainedBatch, which: Tensor, distance: Tensor) -> Tensor:
        batch.failed_constraint = torch.where(which, batch.constraint, batch.failed_constraint)
        which = which & (batch.failed_constraint < _CLOSE_ENOUGH * distance)
        batch.constraint = torch.where(which, (batch.failed_constraint + distance) / 2, batch.constraint)
        return which

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        config = self.config
        only_c = 1.0  # ART's gradient does not contain c: other values would give the same images again
        options = {
            "confidence": config.kappa,
            "targeted": False,
            "learning_rate": config.lr,
            "max_iter": config.steps,
            "decrease_factor": config.decrease,
            "initial_const": only_c,
            "largest_const": math.nextafter(only_c, math.inf),
            "batch_size": 1,
            "verbose": False,
        }
        return run_art("CarliniLInfMethod", options, surface, x, goal)
