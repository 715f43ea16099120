"""The search in a latent space, on surfaces whose scores and distances are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from benchmark.attacks.on_manifold import OnManifold, OnManifoldConfig
from torch import Tensor

from benchmark.api.attack import Surface
from benchmark.api.noise import Noise


class Bright(Surface):
    """Two classes; the margin of the second is the mean pixel minus a threshold.

    Latents are doubled pixels.
    """

    def __init__(self, threshold: float, pixels: int = 4) -> None:
        super().__init__(2, (1, 1, pixels))
        self.threshold = threshold
        self.decoded: list[Tensor] = []

    @property
    def has_latents(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        margins = x.flatten(1).mean(dim=1) - self.threshold
        return torch.stack([torch.zeros_like(margins), margins], dim=1)

    def encode(self, x: Tensor) -> Tensor:
        return 2 * x

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(latents.detach().clone())
        return latents / 2


def crafted(surface: Bright, *brightness: float, **settings: Any) -> Tensor:
    attack = OnManifold(OnManifoldConfig(**({"kappa": 0.0, "restarts": 1} | settings)))
    x = torch.tensor(brightness)[:, None, None, None].expand(-1, 1, 1, surface.image_shape[2])
    labels = torch.zeros(len(x), dtype=torch.int64)
    return attack.craft(surface, x, labels, Noise(0, range(len(x)))).flatten(1)


@pytest.mark.parametrize(
    ("distance", "eps", "threshold", "breaks"),
    [
        ("linf", 0.2, 0.65, True),
        ("linf", 0.2, 0.75, False),
        ("l2", 0.4, 0.65, True),
        ("l2", 0.4, 0.75, False),
    ],
)
def test_the_search_succeeds_within_its_ball(
    distance: Any, eps: float, threshold: float, breaks: bool
) -> None:
    """Four pixels at 0.5 can be raised by 0.2 each in both balls."""
    surface = Bright(threshold)
    found = crafted(surface, 0.5, eps=eps, distance=distance, steps=100)
    change = found - 0.5
    assert (change.abs().amax() if distance == "linf" else change.norm()) <= eps + 1e-6
    assert bool(found.mean() > threshold) == breaks


def test_the_multiplier_pulls_the_image_back_to_the_ball() -> None:
    """The margin is never reached, so the search ends near the boundary and not far outside of it."""
    surface = Bright(threshold=9.0)
    crafted(surface, 0.5, eps=0.1, steps=300, kappa=1.0)
    late = torch.stack(surface.decoded[-50:]) / 2 - 0.5
    assert 0.05 < late.mean() < 0.2


def test_the_search_begins_at_the_latents_of_the_image_and_then_around_them() -> None:
    surface = Bright(threshold=9.0, pixels=40)
    crafted(surface, 0.2, 0.6, eps=0.1, steps=3, restarts=3, spread=0.5)
    starts = [surface.decoded[number] for number in (0, 3, 6)]
    clean = torch.tensor([[0.4], [1.2]]).expand(2, 40)
    assert torch.allclose(starts[0].flatten(1), clean)
    scale = 0.5 * clean.std()
    for start in starts[1:]:
        assert (start.flatten(1) - clean).std().item() == pytest.approx(scale.item(), rel=0.3)
    assert not torch.equal(starts[1], starts[2])


def test_a_step_of_adam_has_the_size_of_the_learning_rate() -> None:
    surface = Bright(threshold=9.0)
    crafted(surface, 0.5, eps=0.9, steps=3, lr=0.03, kappa=1.0)
    first, second = surface.decoded[:2]
    assert torch.allclose(second - first, torch.full_like(first, 0.03), atol=1e-5)


def test_the_image_with_the_largest_margin_in_the_ball_is_returned() -> None:
    """Up to a margin of κ; a larger margin outside of the ball is worth less."""
    found = crafted(Bright(threshold=0.4), 0.5, eps=0.2, steps=200, kappa=1.0)
    assert found.mean().item() == pytest.approx(0.7, abs=0.01)
    reached = crafted(Bright(threshold=0.4), 0.5, eps=0.2, steps=200, kappa=0.05)
    assert torch.allclose(reached, torch.full_like(reached, 0.5))  # the first image already


def test_each_image_has_its_own_multiplier_and_best_image() -> None:
    together = crafted(Bright(0.65), 0.5, 0.1, eps=0.2, steps=60)
    alone = [crafted(Bright(0.65), value, eps=0.2, steps=60)[0] for value in (0.5, 0.1)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)
    assert (together.mean(dim=1) > 0.65).tolist() == [True, False]


def test_the_distance_in_linf_is_the_mean_of_the_largest_hundredth() -> None:
    """Among 200 pixels the two largest changes count, so that more than one gets a gradient."""
    surface = Bright(threshold=-1.0, pixels=200)

    def encode(x: Tensor) -> Tensor:
        latents = 2 * x
        latents[..., 0] += 0.8  # 0.4 in pixels
        latents[..., 1] += 0.4
        return latents

    surface.encode = encode  # type: ignore[method-assign]
    crafted(surface, 0.5, eps=0.25, steps=2, lr=0.01)
    moved = (surface.decoded[1] - surface.decoded[0]).flatten()
    assert moved[:2].tolist() == pytest.approx(
        [-0.01, -0.01], abs=1e-4
    )  # the mean is 0.3, outside of the ball
    assert not moved[2:].any()
    assert math.isclose(float(surface.decoded[0].flatten()[0]), 1.8, rel_tol=1e-6)


def test_more_steps_add_restarts() -> None:
    more = OnManifold(OnManifoldConfig(eps=0.1, steps=5, restarts=2)).with_more_steps(3).config
    assert (more.steps, more.restarts) == (15, 6)
