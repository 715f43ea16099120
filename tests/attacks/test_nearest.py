"""Attacks that minimise a norm, on a linear classifier whose nearest adversarial examples are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmark.attacks.cw_l0 import CwL0, CwL0Config
from benchmark.attacks.cw_l2 import CwL2, CwL2Config
from benchmark.attacks.cw_linf import CwLinf, CwLinfConfig
from benchmark.attacks.deepfool import DeepFool, DeepFoolConfig
from benchmark.attacks.l_bfgs import LBfgs, LBfgsConfig
from benchmark.attacks.steps.carlini_wagner import Adam, ClosestAdversarial
from torch import Tensor, nn

from benchmark.api import margin
from benchmark.api.attack import Attack, Surface
from benchmark.api.noise import Noise

SHAPE = (1, 2, 4)
WEIGHTS = torch.tensor(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [2.0, -1.0, 0.5, 0.0, 0.0, 0.1, 0.0, 0.0],
        [0.0, 0.0, 0.0, 3.0, -2.0, 0.0, 1.0, 0.2],
    ]
)
OFFSETS = torch.tensor([0.0, -1.0, -2.0])
X = torch.tensor(
    [
        [0.50, 0.50, 0.50, 0.50, 0.50, 0.50, 0.50, 0.50],
        [0.45, 0.60, 0.40, 0.62, 0.42, 0.50, 0.55, 0.50],
        [0.60, 0.55, 0.50, 0.40, 0.50, 0.50, 0.50, 0.50],
        [0.40, 0.40, 0.40, 0.65, 0.50, 0.40, 0.60, 0.50],
    ]
).reshape(-1, *SHAPE)
LABELS = torch.zeros(len(X), dtype=torch.int64)


class Linear(Surface):
    """Three classes: class 0 has a score of 0, the others are linear; counts its calls."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(3, SHAPE)
        self.scale, self.calls = scale, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.scale * (x.flatten(1) @ WEIGHTS.T + OFFSETS)


def distances(norm: str, kappa: float = 0.0) -> Tensor:
    """The distance of each image to the nearest boundary, shifted by a margin of `kappa`."""
    gaps = kappa - (X.flatten(1) @ WEIGHTS.T + OFFSETS)[:, 1:]
    lengths = WEIGHTS[1:].norm(dim=1) if norm == "l2" else WEIGHTS[1:].abs().sum(dim=1)
    return (gaps / lengths).amin(dim=1)


def crafted(attack: Attack[Any], surface: Surface | None = None, rows: slice = slice(None)) -> Tensor:
    x = X[rows]
    return attack.craft(surface or Linear(), x.clone(), LABELS[rows], Noise(0, range(len(x))))


def size(images: Tensor, norm: str, rows: slice = slice(None)) -> Tensor:
    change = (images - X[rows]).flatten(1)
    return change.norm(dim=1) if norm == "l2" else change.abs().amax(dim=1)


def test_the_images_are_right_and_have_different_nearest_classes() -> None:
    scores = Linear()(X)
    assert (scores.argmax(dim=1) == 0).all()
    gaps = -scores[:, 1:] / WEIGHTS[1:].norm(dim=1)
    assert gaps.argmin(dim=1).tolist() == [0, 1, 0, 1]
    assert (scores[:, 1:].argmax(dim=1) == gaps.argmin(dim=1)).all()


EXACT: list[tuple[Attack[Any], str, float, float]] = [
    (CwL2(CwL2Config(steps=100)), "l2", 0.0, 0.04),
    (CwL2(CwL2Config(steps=100, kappa=0.3)), "l2", 0.3, 0.02),
    (CwL2(CwL2Config(steps=100, box="tanh", lr=0.05)), "l2", 0.0, 0.08),
    (CwL2(CwL2Config(steps=60, abort_early=False)), "l2", 0.0, 0.04),
    (CwLinf(CwLinfConfig()), "linf", 0.0, 0.025),
    (CwLinf(CwLinfConfig(kappa=0.3)), "linf", 0.3, 0.025),
    (DeepFool(DeepFoolConfig(overshoot=0.0)), "l2", 0.0, 0.01),
    (DeepFool(DeepFoolConfig(overshoot=0.0, distance="linf")), "linf", 0.0, 0.01),
]


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize(
    ("attack", "norm", "kappa", "tolerance"), EXACT, ids=lambda a: getattr(a, "name", None)
)
def test_the_nearest_adversarial_example_is_found(
    attack: Attack[Any], norm: str, kappa: float, tolerance: float, scale: float
) -> None:
    if kappa and scale != 1:
        kappa, attack = 300 * kappa, type(attack)(attack.config.model_copy(update={"kappa": 300 * kappa}))
    surface = Linear(scale)
    images = crafted(attack, surface)
    assert (margin(surface(images), LABELS) > kappa).all()
    found, known = size(images, norm), distances(norm, kappa / scale)
    assert (found >= known * (1 - 1e-4)).all()
    assert found.tolist() == pytest.approx(known.tolist(), rel=tolerance)


@pytest.mark.parametrize("overshoot", [0.02, 0.5])
def test_deepfool_goes_beyond_the_boundary_by_its_overshoot(overshoot: float) -> None:
    for norm in ("l2", "linf"):
        images = crafted(DeepFool(DeepFoolConfig(overshoot=overshoot, distance=norm)))
        expected = (1 + overshoot) * (distances(norm) + 1e-4)
        assert size(images, norm).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_deepfool_stops_at_the_first_misclassified_image() -> None:
    """One look at the clean image, one gradient, and one look at the result."""
    surface = Linear()
    crafted(DeepFool(DeepFoolConfig()), surface)
    assert surface.calls == 3


def test_deepfool_considers_the_classes_with_the_highest_scores() -> None:
    """With one candidate it takes class 1, though class 2 is nearer."""

    class Far(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.tensor([1.0, 0.1, 1.0])

    one = crafted(DeepFool(DeepFoolConfig(candidates=2)), Far(), slice(1, 2))
    all_ = crafted(DeepFool(DeepFoolConfig(candidates=3)), Far(), slice(1, 2))
    assert size(all_, "l2", slice(1, 2)) < size(one, "l2", slice(1, 2)) - 0.01


@pytest.mark.parametrize(("needed", "count"), [(0.35, 1), (0.6, 2), (0.85, 3), (1.1, 4), (1.9, None)])
def test_cw_l0_changes_as_few_pixels_as_possible(needed: float, count: int | None) -> None:
    """A pixel of weight w changes the margin by w / 2 at most: 0.45, 0.35, 0.25, 0.15 and four times 0.05."""

    class Sum(Surface):
        def __init__(self) -> None:
            super().__init__(2, SHAPE)

        def forward(self, x: Tensor) -> Tensor:
            weights = torch.tensor([0.7, -0.1, 0.9, 0.1, -0.5, 0.1, 0.3, -0.1])
            margins = (x.flatten(1) - 0.5) @ weights - needed
            return torch.stack([0 * margins, margins], dim=1)

    x = torch.full((2, *SHAPE), 0.5)
    attack = CwL0(CwL0Config())
    images = attack.craft(Sum(), x, torch.zeros(2, dtype=torch.int64), Noise(0, range(2)))
    changed = (images != x).flatten(1)
    if count is None:
        assert not changed.any()
    else:
        assert changed.sum(dim=1).tolist() == [count] * 2
        assert (margin(Sum()(images), torch.zeros(2, dtype=torch.int64)) > 0).all()


@pytest.mark.parametrize("name", ["cw-l2", "cw-linf", "cw-l0", "deepfool", "l-bfgs"])
def test_an_image_gets_the_same_result_alone_and_with_others(name: str) -> None:
    attacks: dict[str, Attack[Any]] = {
        "cw-l2": CwL2(CwL2Config(steps=60, search_steps=3)),
        "cw-linf": CwLinf(CwLinfConfig()),
        "cw-l0": CwL0(CwL0Config()),
        "deepfool": DeepFool(DeepFoolConfig()),
        "l-bfgs": LBfgs(LBfgsConfig(steps=8, search_steps=2)),
    }
    together = crafted(attacks[name])
    for row in range(len(X)):
        alone = crafted(attacks[name], rows=slice(row, row + 1))
        assert torch.allclose(together[row], alone[0], atol=1e-4), row


# --- parts of the attacks of Carlini and Wagner --------------------------------------------------------


def test_adam_is_that_of_torch_with_a_step_count_for_each_image() -> None:
    gradients = torch.randn(6, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    variables = nn.Parameter(torch.zeros(2, *SHAPE))
    reference, ours = torch.optim.Adam([variables], lr=0.1), Adam.like(variables.data)
    position = torch.zeros(2, *SHAPE)
    for gradient in gradients:
        variables.grad = gradient
        reference.step()
        position += ours.step(gradient, 0.1)
    assert torch.allclose(position, variables, atol=1e-6)
    assert ours.steps.tolist() == [6, 6]
    ours.reset(torch.tensor([False, True]))
    step = ours.step(gradients[0], 0.1)
    assert ours.steps.tolist() == [7, 1]
    assert torch.allclose(step[1], -0.1 * gradients[0, 1].sign(), atol=1e-5)  # as a first step
    assert not torch.allclose(step[0], -0.1 * gradients[0, 0].sign(), atol=1e-2)


def test_the_closest_adversarial_example_is_kept_and_before_it_the_most_wrong_one() -> None:
    def image(value: float) -> Tensor:
        return torch.full((1, 1, 1, 1), value)

    closest, first = ClosestAdversarial(torch.zeros(2, 1, 1, 1), kappa=0.5), torch.tensor([0])

    def update(value: float, reached: float, distance: float) -> tuple[bool, float]:
        found = closest.update(first, image(value), torch.tensor([reached]), torch.tensor([distance]))
        return bool(found), closest.images[0].item()

    assert update(0.1, -0.2, 0.1) == (False, 0.0)
    assert update(0.2, 0.3, 9.0) == (False, pytest.approx(0.2))
    assert update(0.3, 0.1, 0.1) == (False, pytest.approx(0.2))  # less wrong
    assert update(0.4, 0.5, 8.0) == (False, pytest.approx(0.4))  # κ has to be exceeded
    assert update(0.5, 0.6, 7.0) == (True, pytest.approx(0.5))
    assert update(0.6, 0.9, 7.0) == (False, pytest.approx(0.5))  # not nearer
    assert update(0.7, 0.4, 1.0) == (False, pytest.approx(0.5))  # nearer, but not adversarial
    assert update(0.8, 0.6, 6.0) == (True, pytest.approx(0.8))
    assert closest.distance.tolist() == [6.0, float("inf")]
    assert closest.images[1].item() == 0.0
