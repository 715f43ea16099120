"""Goals of attacks by value: margins, gradients and targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from benchmark.attacks.steps.goal import Goal, TargetedConfig
from torch import Tensor

from benchmark.api import loss_gradient, margin
from benchmark.api.attack import Surface
from benchmark.api.noise import Noise

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, 1.0]])
LABELS = torch.tensor([0, 0])


def test_margins_are_positive_if_the_goal_is_reached() -> None:
    assert margin(LOGITS, LABELS).tolist() == [2.0, -3.0]
    assert Goal(LABELS).margin(LOGITS).tolist() == [2.0, -3.0]
    assert Goal(LABELS, torch.tensor([1, 2])).margin(LOGITS).tolist() == [1.0, -3.0]
    assert Goal(LABELS, torch.tensor([2, 0])).margin(LOGITS).tolist() == [-1.0, 3.0]


class Table(Surface):
    """Linear scores of three classes of one pixel: slopes 1, 3 and −2."""

    def __init__(self, offsets: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        super().__init__(3, (1, 1, 1))
        self._offsets = torch.tensor(offsets)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.tensor([[1.0, 3.0, -2.0]]) + self._offsets


def test_the_gradient_of_the_cross_entropy_up_to_its_factor() -> None:
    """Towards the wrong classes by their softmax among themselves, away from the label."""
    x = torch.full((1, 1, 1, 1), 0.5)
    slope, logits = loss_gradient(Table(), x, torch.tensor([0]))
    weight = 1 / (1 + math.exp(-1 - 1.5))
    assert logits.tolist() == [[0.5, 1.5, -1.0]]
    assert slope.item() == pytest.approx(weight * 3 + (1 - weight) * -2 - 1)
    towards, _ = Goal(torch.tensor([0]), torch.tensor([2])).gradient(Table(), x)
    other = 1 / (1 + math.exp(-1))
    assert towards.item() == pytest.approx(-(other * 3 + (1 - other) * 1 + 2))
    best, _ = Goal(torch.tensor([0])).gradient(Table(), x, "margin")
    assert best.item() == pytest.approx(3 - 1)
    aimed, _ = Goal(torch.tensor([0]), torch.tensor([2])).gradient(Table(), x, "margin")
    assert aimed.item() == pytest.approx(-2 - 3)


@pytest.mark.parametrize(
    ("targeted", "target"),
    [("next", [1, 2, 0]), ("least-likely", [2, 0, 1]), (False, None)],
)
def test_targets_are_chosen_as_named(targeted: Any, target: list[int] | None) -> None:
    offsets = torch.tensor([[3.0, 2.0, 1.0], [0.0, 2.0, 1.0], [3.0, 2.0, 9.0]])
    surface = Table()
    surface.forward = lambda x: offsets  # type: ignore[method-assign]
    x, labels = torch.zeros(3, 1, 1, 1), torch.tensor([0, 1, 2])
    goal = TargetedConfig(targeted=targeted).goal(surface, x, labels, Noise(0, range(3)))
    assert (goal.target is None) == (target is None)
    assert goal.target is None or goal.target.tolist() == target


def test_random_targets_are_wrong_classes_and_depend_on_the_image_alone() -> None:
    x, labels = torch.zeros(300, 1, 1, 1), torch.arange(300) % 3
    config = TargetedConfig(targeted="random")

    def drawn(first: int, count: int, seed: int = 0) -> Tensor:
        part = slice(first, first + count)
        goal = config.goal(Table(), x[part], labels[part], Noise(seed, range(first, first + count)))
        assert goal.target is not None
        return goal.target

    targets = drawn(0, 300)
    assert not (targets == labels).any()
    assert torch.equal(drawn(7, 5, seed=3), targets[7:12])
    assert torch.bincount((targets - labels) % 3)[1:].min() > 110


def test_some_images_keep_their_goal() -> None:
    goal = Goal(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])).take(torch.tensor([2, 0]))
    assert goal.target is not None
    assert (goal.labels.tolist(), goal.target.tolist()) == ([2, 0], [0, 1])
