"""HopSkipJump (Chen et al. 2020), through Foolbox: a walk along the boundary that asks for labels only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from attacks.backends import BackedConfig
from attacks.contract import Attack, Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

_DRAWS = 10
_BLOTS = 300
_SIDES = (3, 4, 5, 7)


class HopSkipJumpConfig(BackedConfig):
    """`distance`: the norm to minimise; `steps`: of the walk.

    `first_queries` and `most_queries`: labels asked for at the first step, and at most at one.
    """

    distance: Literal["l2", "linf"] = "l2"
    steps: int = param(64, ge=1)
    first_queries: int = param(100, ge=1)
    most_queries: int = param(10_000, ge=1)
    backend: Literal["foolbox"] = "foolbox"


@attack("hopskipjump")
class HopSkipJump(Attack[HopSkipJumpConfig]):
    """Estimates the boundary's normal from labels of nearby points, steps along it, and comes back nearer."""

    uses = "labels"
    stochastic = True
    needs_determinism = True  # Foolbox insists that a boundary once found stays where it is

    @property
    def norm(self) -> Norm:
        return self.config.distance

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        from foolbox.attacks import HopSkipJumpAttack

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        goal = config.goal(surface, x, labels, noise)
        library = HopSkipJumpAttack(
            steps=config.steps,
            initial_gradient_eval_steps=config.first_queries,
            max_gradient_eval_steps=config.most_queries,
            constraint=config.distance,
        )
        starts = _starts(surface, x, goal, noise)
        return run_foolbox(library, surface, x, goal, eps=None, starting_points=starts)


def _starts(surface: Surface, x: Tensor, goal: Goal, noise: Noise) -> Tensor:
    """Adversarial images to begin at: noise, black, white, another image of the batch, or else large blots.

    Noise is often of one class whatever its draw, so that more draws alone would not help that class.

    Raises:
        ValueError: None of them is adversarial for some image. To leave it clean would pass for robustness.
    """
    starts, left = x.clone(), torch.arange(len(x), device=x.device)
    for candidate in _candidates(x, noise):
        with torch.no_grad():
            reached = goal.take(left).margin(surface(candidate[left])) > 0
        starts[left[reached]] = candidate[left[reached]]
        left = left[~reached]
        if len(left) == 0:
            return starts
    raise ValueError(f"no image to begin at, for {len(left)} of {len(x)} images")


def _candidates(x: Tensor, noise: Noise) -> Iterator[Tensor]:
    yield x  # what is wrong already
    for _ in range(_DRAWS):
        yield noise.uniform_like(x)
    yield from (torch.zeros_like(x), torch.ones_like(x))
    yield from (x.roll(shift, dims=0) for shift in range(1, len(x)))
    for draw in range(_BLOTS):
        side = _SIDES[draw % len(_SIDES)]
        coarse = noise.uniform_like(x[:, :, :side, :side])
        smooth = torch.nn.functional.interpolate(coarse, x.shape[2:], mode="bicubic")
        yield (smooth > 0.5 + 0.1 * (draw % 3)).to(x.dtype)
