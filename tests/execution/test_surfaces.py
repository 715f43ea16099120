"""Surfaces by value: which draws are averaged, which gradient comes back, and what the meter counts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api.defense import Defense, Surrogate
from benchmark.api.noise import Noise, StreamNoise
from benchmark.errors import BudgetError, PluginError
from benchmark.execution.bpda_network import BpdaNetwork
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.surfaces import MeteredSurface, SurfaceInputs, build_surface, make_surface
from benchmark.plan.tasks import surface_forms
from benchmark.plugins.plugin import Config

SHAPE = (1, 1, 2)


class Squares(nn.Module):
    """The scores are the squared pixels, so that the gradient depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square()


class Steps(Defense[Config]):
    """Adds k/100 to the k-th row of its batch, so that every row is another draw; records its calls."""

    name = "steps"
    stochastic = True

    def __init__(self, factor: float = 1.0, surrogates: tuple[str, ...] = ("half",)) -> None:
        super().__init__(Config(), SHAPE, 2)
        self.factor, self.surrogates = factor, surrogates  # type: ignore[misc]
        self.batches: list[Tensor] = []

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        self.batches.append(x.detach().clone())
        return self.factor * x + torch.arange(len(x))[:, None, None, None] / 100

    def surrogate(self, name: str, target: Callable[[Tensor], Tensor], noise: Noise) -> Surrogate:
        return Surrogate(lambda x: target(x / 2), encode=lambda x: x * 3, decode=lambda z: z / 3)


class Plain(Steps):
    """The same as a deterministic defense: no rows differ."""

    stochastic = False

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        self.batches.append(x.detach().clone())
        return self.factor * x


X = torch.tensor([[0.1, 0.2], [0.3, 0.0], [0.5, 0.4]]).reshape(3, 1, 1, 2)
STEPS = torch.arange(12.0).reshape(3, 4, 1) / 100
"""What four draws add to each of three images: 0 to 3 hundredths to the first, 4 to 7 to the second, …"""


def surface(form: str, *parts: Defense[Any], draws: int | None = 4, **inputs: Any) -> MeteredSurface:
    purifier = PurifierModule(parts or [Steps()])
    purifier.reset(StreamNoise(0))
    models = {"purified_set": None, "bpda_network": None, "num_classes": 2, "image_shape": SHAPE} | inputs
    return build_surface(form, SurfaceInputs(Squares(), purifier, **models), draws)


def gradient(of: MeteredSurface, x: Tensor = X) -> tuple[Tensor, Tensor]:
    """The scores, and the gradient of their sum with respect to each image (B, pixels)."""
    leaf = x.clone().requires_grad_()
    scores = of(leaf)
    (found,) = torch.autograd.grad(scores.sum(), leaf)
    return scores.detach(), found.flatten(1)


# --- averages over draws -------------------------------------------------------------------------------


def test_the_scores_of_an_image_are_averaged_over_its_own_draws() -> None:
    scores, slope = gradient(surface(surface_forms.PIPELINE))
    draws = X.flatten(1)[:, None] + STEPS
    assert torch.allclose(scores, draws.square().mean(dim=1))
    assert torch.allclose(slope, (2 * draws).mean(dim=1))


def test_an_image_gets_the_same_scores_as_alone() -> None:
    """Neither its scores nor its gradient may come from another image of the batch."""
    together = surface(surface_forms.PIPELINE, Steps())
    leaf = X.clone().requires_grad_()
    scores = together(leaf)
    for row in range(len(X)):
        (found,) = torch.autograd.grad(scores[row].sum(), leaf, retain_graph=True)
        assert found[row].any()
        others = torch.arange(len(X)) != row
        assert not found[others].any()
    alone, _ = gradient(surface(surface_forms.PIPELINE), X[:1])
    assert torch.allclose(scores[:1], alone)


def test_each_image_is_purified_once_per_draw_next_to_its_other_draws() -> None:
    part = Steps()
    gradient(surface(surface_forms.PIPELINE, part))
    (batch,) = part.batches
    assert torch.equal(batch, X.repeat_interleave(4, dim=0))


@pytest.mark.parametrize("form", [surface_forms.PIPELINE, surface_forms.BPDA_IDENTITY])
def test_a_deterministic_defense_is_drawn_once(form: str) -> None:
    part = Plain()
    gradient(surface(form, part))
    (batch,) = part.batches
    assert torch.equal(batch, X)


def test_without_a_number_of_draws_there_is_one() -> None:
    part = Steps()
    scores, _ = gradient(surface(surface_forms.PIPELINE, part, draws=None))
    assert torch.allclose(scores, (X.flatten(1) + torch.arange(3)[:, None] / 100).square())


# --- BPDA ------------------------------------------------------------------------------------------------


class Triples(nn.Module):
    """A replacement in the backward pass whose output is nothing like that of the purifier."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * x


@pytest.mark.parametrize(
    ("form", "factor"), [(surface_forms.BPDA_IDENTITY, 1.0), (surface_forms.BPDA_NETWORK, 3.0)]
)
def test_bpda_has_the_scores_of_the_pipeline_and_the_gradient_of_the_replacement(
    form: str, factor: float
) -> None:
    scores, slope = gradient(surface(form, Steps(0.5), bpda_network=Triples()))
    draws = 0.5 * X.flatten(1)[:, None] + STEPS
    assert torch.allclose(scores, draws.square().mean(dim=1))
    assert torch.allclose(slope, factor * (2 * draws).mean(dim=1))


def test_bpda_without_gradients_has_the_same_scores() -> None:
    one = surface(surface_forms.BPDA_NETWORK, Steps(0.5), bpda_network=Triples())
    expected = gradient(one)[0]
    with torch.no_grad():
        assert torch.allclose(one(X.clone().requires_grad_()), expected)
    assert torch.allclose(one(X), expected)  # an image without a gradient of its own


# --- the other forms -------------------------------------------------------------------------------------


def test_the_target_alone_is_attacked_without_the_defense() -> None:
    part = Steps()
    scores, slope = gradient(surface(surface_forms.TARGET, part))
    assert torch.equal(scores, X.flatten(1).square())
    assert torch.equal(slope, 2 * X.flatten(1))
    assert not part.batches


def test_a_query_is_one_draw_without_a_gradient() -> None:
    part = Steps()
    scores, slope = gradient(surface(surface_forms.QUERY, part))
    assert torch.allclose(scores, (X.flatten(1) + torch.arange(3)[:, None] / 100).square())
    assert not slope.any()
    (batch,) = part.batches
    assert torch.equal(batch, X)


def test_a_surrogate_replaces_its_own_defense_and_keeps_the_others() -> None:
    parts = (Plain(0.5, ()), Steps(), Plain(3.0, ()))
    one = surface("surrogate:half", *parts, draws=1)
    scores, slope = gradient(one)
    assert torch.allclose(scores, (X.flatten(1) * 0.5 / 2 * 3).square())
    assert torch.allclose(slope, 2 * X.flatten(1) * 0.75**2)
    assert not parts[1].batches
    assert one.has_latents
    assert torch.equal(one.encode(X), 3 * X)
    assert torch.equal(one.decode(3 * X), 3 * X / 3)


PURIFIED = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 0.0]]).reshape(3, 1, 1, 2)


def test_the_purified_set_scores_minus_the_squared_distance_to_the_nearest_image_of_a_class() -> None:
    one = surface(surface_forms.PURIFIED_SET, purified_set=(PURIFIED, torch.tensor([0, 1, 0])), num_classes=3)
    scores, _ = gradient(one)
    squares = torch.tensor([[0.01 + 0.04, 0.16 + 0.09], [0.09, 0.04 + 0.25], [0.25 + 0.16, 0.01]])
    assert torch.allclose(scores[:, :2], -squares, atol=1e-6)
    assert (scores[:, 2] < scores[:, :2].amin(dim=1) - 0.9).all()  # a class without images is the farthest
    alone = X[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(one(alone)[0, 1], alone)
    assert slope.flatten().tolist() == pytest.approx([0.8, 0.6])  # towards the image of that class


@pytest.mark.parametrize(
    "form", [surface_forms.PURIFIED_SET, surface_forms.BPDA_NETWORK, "pipeline-of-steam"]
)
def test_a_surface_without_what_it_needs_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="no surface of form"):
        surface(form)


def test_a_pipeline_without_a_purifier_is_refused() -> None:
    inputs = SurfaceInputs(Squares(), None, None, None, 2, SHAPE)
    assert torch.equal(build_surface(surface_forms.TARGET, inputs, None)(X), X.flatten(1).square())
    with pytest.raises(ValueError, match="no surface of form 'pipeline'"):
        build_surface(surface_forms.PIPELINE, inputs, 1)


class Spec:
    """Stands for the description of a surface and for its context."""

    def __init__(self, form: str, draws: int | None, **helpers: Any) -> None:
        self.form, self.draws, self.target = form, draws, "target"
        self.purifier = self.purified_set = self.bpda_network = None
        self.__dict__.update(helpers)


class Models:
    device = torch.device("cpu")

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.module = PurifierModule([Drawn()])

    def dataset(self, spec: Any) -> Any:
        return SimpleNamespace(image_shape=(3, 2, 4), class_names=["a", "b"])

    def tensors(self, task: Any) -> dict[str, Tensor]:
        return dict(task)

    def target(self, task: Any) -> nn.Module:
        return Squares()

    def score_scale(self, task: Any) -> float:
        return self.scale

    def purifier(self, *_: Any) -> PurifierModule:
        return self.module


class Drawn(Steps):
    """Adds the noise of the harness."""

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return (x + 0.01 * noise.uniform_like(x)).clamp(0, 1)


COLOUR = torch.full((2, 3, 2, 4), 0.5)


def made(spec: Spec, context: Models | None = None, seed: int = 7, times: int = 1) -> MeteredSurface:
    return make_surface(spec, None, context or Models(), seed, times)  # type: ignore[arg-type]


def test_the_noise_of_a_surface_follows_from_its_seed() -> None:
    def scores(seed: int) -> Tensor:
        one = made(Spec(surface_forms.PIPELINE, 1, purifier="purifier"), seed=seed)
        assert not one.training
        return one(COLOUR)

    assert torch.equal(scores(7), scores(7))
    assert not torch.equal(scores(7), scores(8))
    noise = StreamNoise(7).uniform_like(COLOUR)
    assert torch.equal(scores(7), (COLOUR + 0.01 * noise).flatten(1).square())


def test_draws_are_multiplied_and_scores_scaled() -> None:
    for times in (1, 4):
        one = made(Spec(surface_forms.PIPELINE, 3, purifier="purifier"), times=times)
        one(COLOUR)
        assert one.meter.purifies == 2 * 3 * times
    assert made(Spec(surface_forms.QUERY, None, purifier="purifier"), times=4)(COLOUR).shape == (2, 24)
    scaled = made(Spec(surface_forms.TARGET, None), Models(scale=8.0))
    assert torch.equal(scaled(COLOUR), 8 * COLOUR.flatten(1).square())
    assert scaled.num_classes == 2
    assert scaled.image_shape == (3, 2, 4)


def test_stored_helpers_are_part_of_the_surface() -> None:
    network = BpdaNetwork(3)
    nn.init.normal_(network.change[-2].weight)  # type: ignore[arg-type]
    spec = Spec(surface_forms.BPDA_NETWORK, 1, purifier="purifier", bpda_network=network.state_dict())
    one = made(spec)
    leaf = COLOUR.clone().requires_grad_()
    (slope,) = torch.autograd.grad(one(leaf).sum(), leaf)
    purified = made(spec).purify(COLOUR)  # type: ignore[attr-defined]
    again = COLOUR.clone().requires_grad_()
    (expected,) = torch.autograd.grad((network(again) * 2 * purified).sum(), again)
    assert torch.allclose(slope, expected, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in one.parameters())
    stored = {"images": COLOUR, "labels": torch.tensor([0, 1])}
    bank = made(Spec(surface_forms.PURIFIED_SET, None, purifier="purifier", purified_set=stored))
    assert bank(COLOUR).abs().max() < 1e-4


# --- the meter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "counts"),
    [
        (surface_forms.TARGET, (3, 3, 0)),
        (surface_forms.PIPELINE, (3, 3, 12)),
        (surface_forms.BPDA_IDENTITY, (3, 3, 12)),
        (surface_forms.QUERY, (3, 3, 3)),
        ("surrogate:half", (3, 3, 12)),
    ],
)
def test_images_are_counted_in_each_direction(form: str, counts: tuple[int, int, int]) -> None:
    one = surface(form)
    gradient(one)
    assert (one.meter.forwards, one.meter.backwards, one.meter.purifies) == counts
    with torch.no_grad():
        one(X[:2])
    assert (one.meter.forwards, one.meter.backwards) == (5, 3)
    assert one.meter.blind == 0


@pytest.mark.parametrize(("passes", "fits"), [(9, True), (8.9, False), (6, False)])
def test_a_call_beyond_the_budget_is_refused(passes: float, fits: bool) -> None:
    one = surface(surface_forms.PIPELINE)
    gradient(one)  # six passes
    with torch.no_grad(), one.limited(passes):
        if fits:
            one(X)
        else:
            with pytest.raises(BudgetError):
                one(X)
    one(X)  # outside of the block there is no limit


# --- gradients that are no numbers ---------------------------------------------------------------


class Broken(Plain):
    """The gradient of the first image is not a number."""

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        first, others = x[:1], x[1:]
        return torch.cat([first + (first * 0).sqrt(), others])


def test_gradients_that_are_no_numbers_become_zero_and_are_counted() -> None:
    one = surface(surface_forms.PIPELINE, Broken())
    _, slope = gradient(one)
    assert one.meter.blind == 1
    assert not slope[0].any()
    assert torch.equal(slope[1:], 2 * X[1:].flatten(1))


def test_a_model_without_a_gradient_has_a_gradient_of_zero() -> None:
    class Cut(Plain):
        def purify(self, x: Tensor, noise: Noise) -> Tensor:
            return x.detach().clone()

    one = surface(surface_forms.PIPELINE, Cut())
    scores, slope = gradient(one)
    assert torch.equal(scores, X.flatten(1).square())
    assert not slope.any()
    assert (one.meter.backwards, one.meter.blind) == (3, 0)


def test_scores_that_are_no_numbers_are_an_error_of_the_model_and_not_of_the_attack() -> None:
    class Lost(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) / 0

    inputs = SurfaceInputs(Lost(), None, None, None, 2, SHAPE)
    one = build_surface(surface_forms.TARGET, inputs, None)
    with pytest.raises(PluginError, match="scores that are not finite"):
        one(X)
    one(X * float("nan"))  # made by the attack: it is checked elsewhere
