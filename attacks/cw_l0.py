"""The L0 attack of Carlini and Wagner 2017 (section VI-B): native and through ART."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import model_validator
from torch import Tensor
from typing_extensions import Self

from attacks.ball import choose, per_image
from attacks.carlini import Limited, Tightening, TighteningConfig, run_with_constant
from attacks.contract import Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

_ROUNDING = 1e-5


class CwL0Config(TighteningConfig):
    """`drop`: what share of the changed pixels, at least one, is given up after each success.

    `initial_c`: weight of the loss on the scores beside |δ|², doubled after each try, to `largest_c` where
    nothing was adversarial yet. `search_steps`: how many values of c ART tries for each set of pixels.
    """

    lacks: ClassVar = {"native": frozenset({"search_steps"}), "art": frozenset({"drop", "largest_c"})}

    initial_c: float = param(1e3, gt=0)
    largest_c: float = param(1e6, gt=0)
    lr: float = param(0.05, gt=0)
    drop: float = param(0.1, ge=0, lt=1)
    search_steps: int = param(10, ge=1)

    @model_validator(mode="after")
    def _some_c(self) -> Self:
        if self.backend == "native" and self.largest_c < self.initial_c:
            raise ValueError("largest_c below initial_c: there is no c to try")
        return self


@attack("cw-l0")
class CwL0(Tightening[CwL0Config]):
    """The L2 attack on fewer and fewer pixels: those that matter least are set back after each success.

    A pixel matters by its change times the gradient of the margin there. Pixels count once, whatever their
    number of channels.
    """

    weak_backends = frozenset({"art"})

    @property
    def norm(self) -> Norm:
        return "l0"

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        return self.nearest(surface, x, goal, torch.ones_like(x[:, :1], dtype=torch.bool))

    @property
    def most_tries(self) -> int:
        return 1 + math.floor(math.log2(self.config.largest_c / self.config.initial_c))

    def size(self, rows: Limited) -> Tensor:
        return _changed(rows).flatten(1).sum(dim=1).float()

    def slope(self, rows: Limited, push: Tensor) -> Tensor:
        c = per_image(self.config.initial_c * 2**rows.tries)
        return (c * push + 2 * (rows.images - rows.clean)) * rows.limit

    def tighter(self, rows: Limited, gradient: Tensor) -> Tensor:
        changed = _changed(rows)
        matters = (gradient * (rows.images - rows.clean)).abs().sum(dim=1, keepdim=True)
        place = matters.masked_fill(~changed, float("inf")).flatten(1).argsort(dim=1).argsort(dim=1)
        lost = (self.config.drop * self.size(rows)).ceil().clamp_min(1)
        return changed & (place.view_as(changed) >= per_image(lost))

    def inside(self, rows: Limited) -> Tensor:
        return torch.where(rows.limit, rows.images, rows.clean)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import CarliniL0Method

        images = run_with_constant(CarliniL0Method, self.config, surface, x, goal)
        # what ART leaves alone still goes through its change of variables and back
        plain = torch.where((images - x).abs() > _ROUNDING, images, x)
        with torch.no_grad():
            return choose(goal.margin(surface(plain)) > 0, plain, images)


def _changed(rows: Limited) -> Tensor:
    return (rows.images != rows.clean).any(dim=1, keepdim=True)
