"""Balls: projections, directions and random points, and the choice among several runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.api import Ball, most_wrong, unit
from benchmark.api.balls import choose, lengths, per_image
from benchmark.api.noise import Noise


def near(*pixels: float) -> Any:
    return pytest.approx(list(pixels), abs=1e-6)


def ball(norm: Any, eps: float, *pixels: float) -> Ball:
    return Ball(torch.tensor(pixels).reshape(1, 1, 1, -1), eps, norm)


@pytest.mark.parametrize(
    ("of", "point", "projected"),
    [
        (ball("linf", 0.2, 0.5, 0.9, 0.1), (0.8, 1.5, -0.5), (0.7, 1.0, 0.0)),
        (ball("linf", 0.2, 0.5, 0.9, 0.1), (0.6, 0.8, 0.2), (0.6, 0.8, 0.2)),
        (ball("l2", 0.5, 0.5, 0.5), (0.5 + 0.6, 0.5 - 0.8), (0.5 + 0.3, 0.5 - 0.4)),
        (ball("l2", 2.0, 0.5, 0.5), (0.5 + 0.6, 0.5 - 0.8), (1.0, 0.0)),
        (ball("l2", 0.5, 0.5, 0.5), (0.6, 0.4), (0.6, 0.4)),
        (ball("l2", 0.5, 0.5, 0.5), (0.5, 0.5), (0.5, 0.5)),
    ],
)
def test_points_are_projected_into_the_ball_and_the_box(
    of: Ball, point: tuple[float, ...], projected: tuple[float, ...]
) -> None:
    found = of.project(torch.tensor(point).reshape_as(of.centre))
    assert found.flatten().tolist() == near(*projected)


def test_the_direction_is_that_of_steepest_ascent_in_the_norm() -> None:
    gradient = torch.tensor([3e-20, -4e-20, 0.0]).reshape(1, 1, 1, 3)
    assert ball("linf", 1, 0, 0, 0).direction(gradient).flatten().tolist() == [1, -1, 0]
    assert ball("l2", 1, 0, 0, 0).direction(gradient).flatten().tolist() == near(0.6, -0.8, 0)
    assert not ball("l2", 1, 0, 0, 0).direction(0 * gradient).any()
    assert unit(gradient).flatten().tolist() == near(0.75, -1, 0)
    assert not unit(0 * gradient).any()


def test_of_several_runs_the_most_wrong_image_counts_and_the_first_of_equals() -> None:
    runs = [
        (torch.full((3, 1, 1, 1), float(number)), torch.tensor(margins))
        for number, margins in enumerate([[1.0, -2.0, 0.0], [2.0, -2.0, -1.0], [0.0, -1.0, 0.0]])
    ]
    assert most_wrong(runs).flatten().tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 2.0)])
def test_random_points_fill_the_ball(norm: Any, eps: float) -> None:
    grey = torch.full((50, 1, 28, 28), 0.5)
    offset = (Ball(grey, eps, norm).random_point(Noise(0, range(50))) - grey).flatten(1)
    sizes = offset.abs().amax(dim=1) if norm == "linf" else offset.norm(dim=1)
    assert sizes.max() <= eps + 1e-5
    assert sizes.min() > 0.98 * eps  # in so many dimensions almost all volume is near the boundary
    assert offset.mean().abs() < 0.01 * eps


def test_random_points_of_one_pixel_are_uniform_in_both_balls() -> None:
    for norm in ("linf", "l2"):
        grey = torch.full((2000, 1, 1, 1), 0.5)
        offset = (Ball(grey, 0.2, norm).random_point(Noise(0, range(2000))) - grey).flatten()
        quarters = torch.histc(offset, bins=4, min=-0.2, max=0.2)
        assert quarters.min() > 420
        assert quarters.sum() == 2000


def test_random_points_stay_in_the_box() -> None:
    white = torch.ones(20, 1, 2, 2)
    points = Ball(white, 0.3, "linf").random_point(Noise(0, range(20)))
    assert points.max() == 1
    assert points.min() >= 0.7


def test_parts() -> None:
    images, others = torch.ones(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    assert lengths(2 * images).tolist() == pytest.approx([2 * 2**0.5] * 2)
    assert per_image(torch.tensor([1.0, 2.0])).shape == (2, 1, 1, 1)
    assert choose(torch.tensor([True, False]), images, others).flatten().tolist() == [1, 1, 0, 0]
