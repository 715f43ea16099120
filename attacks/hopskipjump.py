"""HopSkipJump (Chen et al. 2020), through Foolbox: a decision-based attack that queries only labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from benchmark.attacks.adapters.backends import TargetedBackendConfig
from benchmark.attacks.adapters.foolbox_adapter import run_foolbox
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Attack, Noise, Surface, attack, param

_NOISE_IMAGES = 10
_BLOB_IMAGES = 300
_BLOB_GRIDS = (3, 4, 5, 7)  # side of the coarse random grid that is enlarged to blobs


class HopSkipJumpConfig(TargetedBackendConfig):
    """`distance`: the norm to minimise; `steps`: number of steps.

    `first_queries` and `most_queries`: label queries per gradient estimate, at the first step and at most.
    """

    distance: Literal["l2", "linf"] = "l2"
    steps: int = param(64, ge=1)
    first_queries: int = param(100, ge=1)
    most_queries: int = param(10_000, ge=1)
    backend: Literal["foolbox"] = "foolbox"


@attack("hopskipjump")
class HopSkipJump(Attack[HopSkipJumpConfig]):
    """Estimates the normal of the decision boundary from labels of nearby points and steps along it."""

    uses = "labels"
    stochastic = True
    needs_determinism = True  # Foolbox requires that an image found adversarial stays so

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        config = self.config
        goal = config.goal(surface, x, labels, noise)
        options = {
            "steps": config.steps,
            "initial_gradient_eval_steps": config.first_queries,
            "max_gradient_eval_steps": config.most_queries,
            "constraint": config.distance,
        }
        starts = _starting_points(surface, x, goal, noise)
        return run_foolbox("HopSkipJumpAttack", options, surface, x, goal, starting_points=starts)


def _starting_points(surface: Surface, x: Tensor, goal: Goal, noise: Noise) -> Tensor:
    """Adversarial images to start from: noise, black, white, another image of the batch, or large blobs.

    A classifier often puts all noise into one class. More noise images would not help for that class.

    Raises:
        ValueError: No candidate is adversarial for some image. A clean result would look like robustness.
    """
    starts, remaining = x.clone(), torch.arange(len(x), device=x.device)
    for candidate in _candidates(x, noise):
        with torch.no_grad():
            reached = goal.take(remaining).margin(surface(candidate[remaining])) > 0
        starts[remaining[reached]] = candidate[remaining[reached]]
        remaining = remaining[~reached]
        if len(remaining) == 0:
            return starts
    raise ValueError(f"no starting point was found for {len(remaining)} of {len(x)} images")


def _candidates(x: Tensor, noise: Noise) -> Iterator[Tensor]:
    yield x  # misclassified already
    for _ in range(_NOISE_IMAGES):
        yield noise.uniform_like(x)
    yield from (torch.zeros_like(x), torch.ones_like(x))
    yield from (x.roll(shift, dims=0) for shift in range(1, len(x)))
    for draw in range(_BLOB_IMAGES):
        side = _BLOB_GRIDS[draw % len(_BLOB_GRIDS)]
        coarse = noise.uniform_like(x[:, :, :side, :side])
        smooth = torch.nn.functional.interpolate(coarse, x.shape[2:], mode="bicubic")
        yield (smooth > 0.5 + 0.1 * (draw % 3)).to(x.dtype)
