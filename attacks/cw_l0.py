"""The L0 attack of Carlini and Wagner 2017 (section VI-B): native and through ART."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.steps.carlini_wagner import (
    ConstrainedBatch,
    ConstraintSearchAttack,
    ConstraintSearchConfig,
    art_options,
)
from benchmark.attacks.steps.goal import Goal
from pydantic import model_validator
from torch import Tensor
from typing_extensions import Self

from benchmark.api import Noise, Surface, attack, choose, param, per_image

_ROUNDING = 1e-5


class CwL0Config(ConstraintSearchConfig):
    """`drop`: share of the changed pixels, at least one, that is fixed to its clean value after each success.

    `initial_c`: weight of the margin loss against |δ|². It is doubled after each failed run, up to
    `largest_c`, until an image is adversarial. `search_steps`: values of c that ART tries for each set of
    pixels.
    """

    unsupported_options: ClassVar = {
        "native": frozenset({"search_steps"}),
        "art": frozenset({"drop", "largest_c"}),
    }

    initial_c: float = param(1e3, gt=0)
    largest_c: float = param(1e6, gt=0)
    lr: float = param(0.05, gt=0)
    drop: float = param(0.1, ge=0, lt=1)
    search_steps: int = param(10, ge=1)

    @model_validator(mode="after")
    def _refuse_empty_range_of_c(self) -> Self:
        if self.backend == "native" and self.largest_c < self.initial_c:
            raise ValueError("largest_c below initial_c: there is no c to try")
        return self


@attack("cw-l0")
class CwL0(ConstraintSearchAttack[CwL0Config]):
    """Runs the L2 attack on ever fewer pixels and fixes the least important ones after each success.

    The importance of a pixel is its change times the gradient of the margin (section VI-B), here the sum of
    the absolute products over the channels. A pixel counts once, whatever its number of channels.
    """

    norm = "l0"
    weak_backends = frozenset({"art"})

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        return self.search(surface, x, goal, torch.ones_like(x[:, :1], dtype=torch.bool))

    @property
    def max_failures(self) -> int:
        return 1 + math.floor(math.log2(self.config.largest_c / self.config.initial_c))

    def distances(self, batch: ConstrainedBatch) -> Tensor:
        return _changed_pixels(batch).flatten(1).sum(dim=1).float()

    def objective_gradient(self, batch: ConstrainedBatch, margin_loss_gradient: Tensor) -> Tensor:
        c = per_image(self.config.initial_c * 2**batch.failures)
        return (c * margin_loss_gradient + 2 * (batch.images - batch.clean)) * batch.constraint

    def tightened(self, batch: ConstrainedBatch, gradient: Tensor) -> Tensor:
        changed = _changed_pixels(batch)
        importance = (gradient * (batch.images - batch.clean)).abs().sum(dim=1, keepdim=True)
        rank = importance.masked_fill(~changed, float("inf")).flatten(1).argsort(dim=1).argsort(dim=1)
        dropped = (self.config.drop * self.distances(batch)).ceil().clamp_min(1)
        return changed & (rank.view_as(changed) >= per_image(dropped))

    def project(self, batch: ConstrainedBatch) -> Tensor:
        return torch.where(batch.constraint, batch.images, batch.clean)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        images = run_art("CarliniL0Method", art_options(self.config, goal), surface, x, goal)
        # ART's change of variables and back alters also the pixels that it leaves alone, by rounding
        exact = torch.where((images - x).abs() > _ROUNDING, images, x)
        with torch.no_grad():
            return choose(goal.margin(surface(exact)) > 0, exact, images)


def _changed_pixels(batch: ConstrainedBatch) -> Tensor:
    return (batch.images != batch.clean).any(dim=1, keepdim=True)
