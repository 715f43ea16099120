"""The contract of a purifier: each output is checked, and no attack runs on one that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.errors import PluginError
from benchmark.execution.purifier import PurifierModule
from benchmark.plugins.plugin import Config

X = torch.full((2, 1, 2, 2), 0.5)


class Made(Defense[Config]):
    """Calls functions of the images; `label` makes the decision."""

    name = "made"

    def __init__(self, make: Callable[[Tensor], Any], label: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__(Config(), (1, 2, 2), 2)
        self.make, self.label = make, label
        self.weight = nn.Parameter(torch.ones(1))
        self.forgotten = 0

    @property
    def decides_label(self) -> bool:  # type: ignore[override]
        return self.label is not None

    def forget(self) -> None:
        self.forgotten += 1

    def purify(self, x: Tensor, noise: Noise) -> Any:
        return self.make(x)

    def purify_and_decide(self, x: Tensor, noise: Noise) -> Any:
        assert self.label is not None
        return self.make(x), self.label(x)


class SaysIdentity(Made):
    is_identity = True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: None, "returned NoneType, not a tensor"),
        (lambda x: x[:1], r"returned shape \(1, 1, 2, 2\)"),
        (lambda x: x.double(), "returned torch.float64"),
        (lambda x: x + 0.500015, r"returned values outside \[0, 1\]"),
        (lambda x: x - 0.500015, r"returned values outside \[0, 1\]"),
        (lambda x: x * float("nan"), r"returned values outside \[0, 1\]"),
        (lambda x: x.mul_(1.0), "changed its input in place"),
        (lambda x: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_an_output_that_is_no_image_fails(make: Any, message: str) -> None:
    with pytest.raises(PluginError, match=f"defense made {message}"):
        PurifierModule([Made(make)])(X)


@pytest.mark.parametrize("by", [0.500009, -0.500009, 0.5, -0.5])
def test_rounding_may_carry_a_pixel_out_of_the_box(by: float) -> None:
    assert torch.equal(PurifierModule([Made(lambda x: x + by)])(X), X + by)


def test_images_that_are_no_numbers_are_an_error_of_the_attack() -> None:
    with pytest.raises(PluginError, match="the attack made them"):
        PurifierModule([Made(lambda x: x)])(X * float("inf"))


def test_an_identity_has_to_return_its_input_and_cannot_cut_its_gradient() -> None:
    with pytest.raises(PluginError, match="declares `is_identity = True` but changed an image"):
        PurifierModule([SaysIdentity(lambda x: x + 1e-6)])(X)
    leaf = X.clone().requires_grad_()
    PurifierModule([SaysIdentity(lambda x: x.detach().clone())])(leaf).sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.ones_like(X))


@pytest.mark.parametrize(
    ("label", "valid"),
    [
        (lambda x: torch.zeros(2, dtype=torch.int64), True),
        (lambda x: torch.zeros(2, dtype=torch.int32), False),
        (lambda x: torch.zeros(2), False),
        (lambda x: torch.zeros(3, dtype=torch.int64), False),
        (lambda x: torch.zeros(2, 1, dtype=torch.int64), False),
        (lambda x: torch.zeros_like(x).long(), False),
        (lambda x: [0, 0], False),
        (lambda x: None, False),
    ],
)
def test_a_decision_is_one_label_per_image(label: Any, valid: bool) -> None:
    module = PurifierModule([Made(lambda x: x * 0.5, label)])
    if valid:
        purified, decided = module.purify_and_decide(X)
        assert torch.equal(purified, X / 2)
        assert decided is not None
        assert decided.tolist() == [0, 0]
    else:
        with pytest.raises(PluginError, match="did not return one int64 label per image"):
            module.purify_and_decide(X)
    assert torch.equal(module(X), X / 2)  # attacks ask for the images alone


def test_parts_run_in_their_order_and_only_the_last_one_decides() -> None:
    labels = lambda x: torch.ones(2, dtype=torch.int64)  # noqa: E731
    module = PurifierModule([Made(lambda x: x + 0.25, labels), Made(lambda x: x * 0.5)])
    purified, decided = module.purify_and_decide(X)
    assert torch.equal(purified, (X + 0.25) / 2)
    assert decided is None
    _, decided = PurifierModule([Made(lambda x: x + 0.25), Made(lambda x: x, labels)]).purify_and_decide(X)
    assert decided is not None


def test_weights_are_frozen_and_state_is_forgotten_with_each_reset() -> None:
    parts = [Made(lambda x: x).train(), Made(lambda x: x)]
    module, noise = PurifierModule(parts), Noise(3, range(2))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    module.reset(noise)
    assert module.noise is noise
    assert [part.forgotten for part in parts] == [1, 1]
    module.forget()
    assert module.noise is noise
    assert [part.forgotten for part in parts] == [2, 2]
    assert not module.stochastic
    parts[1].stochastic = True  # type: ignore[misc]
    assert module.stochastic
