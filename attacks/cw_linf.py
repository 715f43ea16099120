"""The L∞ attack of Carlini and Wagner 2017 (section VI-C): native and through ART."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from attacks.ball import per_image
from attacks.carlini import Limited, Tightening, TighteningConfig
from attacks.contract import Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

_NEAR_ENOUGH = 0.98
_MOST_TRIES = 10


class CwLinfConfig(TighteningConfig):
    """`decrease`: what share of the change found becomes the next limit τ.

    ART takes what is not yet of the target for a success, so it has no `targeted`.
    """

    lacks: ClassVar = {"art": frozenset({"targeted"})}

    steps: int = param(25, ge=1)
    decrease: float = param(0.9, gt=0, lt=1)


@attack("cw-linf")
class CwLinf(Tightening[CwLinfConfig]):
    """Lowers the limit τ of what each pixel changes, as long as an adversarial image is found.

    The paper penalises what is beyond τ, by a weight that has to be searched for; here the images are moved
    inside. After the first failure τ is bisected, to within 2 % of the image found.
    """

    weak_backends = frozenset({"art"})

    @property
    def most_tries(self) -> int:
        return _MOST_TRIES

    @property
    def norm(self) -> Norm:
        return "linf"

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        return self.nearest(surface, x, goal, torch.ones(len(x), device=x.device))

    def size(self, rows: Limited) -> Tensor:
        return (rows.images - rows.clean).abs().flatten(1).amax(dim=1)

    def slope(self, rows: Limited, push: Tensor) -> Tensor:
        return push

    def tighter(self, rows: Limited, gradient: Tensor) -> Tensor:
        size = torch.minimum(rows.limit, self.size(rows))
        return torch.maximum(self.config.decrease * size, (rows.unmet + size) / 2)

    def inside(self, rows: Limited) -> Tensor:
        limit = per_image(rows.limit)
        return rows.clean + (rows.images - rows.clean).clamp(-limit, limit)

    def relax(self, rows: Limited, which: Tensor, size: Tensor) -> Tensor:
        rows.unmet = torch.where(which, rows.limit, rows.unmet)
        which = which & (rows.unmet < _NEAR_ENOUGH * size)
        rows.limit = torch.where(which, (rows.unmet + size) / 2, rows.limit)
        return which

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import CarliniLInfMethod

        from attacks.art_adapter import run_art

        config = self.config
        only_c = 1.0  # ART's gradient leaves c out: more values of it would find the same again
        return run_art(
            lambda classifier: CarliniLInfMethod(
                classifier,
                confidence=config.kappa,
                targeted=False,
                learning_rate=config.lr,
                max_iter=config.steps,
                decrease_factor=config.decrease,
                initial_const=only_c,
                largest_const=math.nextafter(only_c, math.inf),
                verbose=False,
            ),
            surface,
            x,
            goal,
        )
