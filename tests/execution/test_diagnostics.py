"""The consistency check and the check by finite differences, on defenses and surfaces with known outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.execution import diagnostics
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.surfaces import MeteredSurface, SurfaceInputs, build_surface
from benchmark.plan.tasks import ConsistencyCheck, FiniteDifferenceCheck, surface_forms
from benchmark.plugins.plugin import Config
from tests.results.hand_made import PGD, only

SHAPE = (1, 4, 4)
B = 6
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
CLEAN = 0.2 + 0.5 * torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(0))
CLEAN[:3, 0, 0, 0] = 0.2 + 0.1 * torch.arange(3)
CLEAN[3:, 0, 0, 0] = 0.6 + 0.1 * torch.arange(3)


class ByPixel(nn.Module):
    """Two classes: the first pixel against one half."""

    def forward(self, x: Tensor) -> Tensor:
        own = 9 * (x[:, 0, 0, 0] - 0.5)
        return torch.stack([-own, own], dim=1)


class Made(Defense[Config]):
    """A defense that calls a function of the images, the number of its calls so far, and the noise."""

    name = "made"

    def __init__(self, purify: Callable[[Tensor, int, Noise], Tensor]) -> None:
        super().__init__(Config(), SHAPE, 2)
        self.made, self.calls = purify, 0

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        self.calls += 1
        return self.made(x.clone(), self.calls, noise)


def consistency(
    purify: Callable[[Tensor, int, Noise], Tensor],
    *,
    random: bool = False,
    scores: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """What the check stores; the purified images in the store are those of the first call."""
    (cell,) = only(PGD, n=B)
    assert cell.checks is not None
    task: ConsistencyCheck = cell.checks.consistency
    (part,) = task.purifier.parts
    part = replace(part, defense=replace(part.defense, stochastic=random))
    purifier = replace(task.purifier, parts=(part,))
    task = replace(task, purifier=purifier, clean=replace(task.clean, purifier=purifier))
    module, found = PurifierModule([Made(purify)]), dict[str, Any]()
    module.reset(Noise(task.clean.noise_seed, range(B)))
    with torch.no_grad():
        stored = module(CLEAN)

    class Context:
        device = torch.device("cpu")

        def clean(self, shard: Any) -> tuple[Tensor, Tensor]:
            return CLEAN.clone(), LABELS

        def target(self, task: Any) -> Any:
            return scores or ByPixel()

        def purifier(self, *_: Any) -> PurifierModule:
            return module

        def tensors(self, task: Any) -> dict[str, Tensor]:
            return {"images": stored}

        def put_tensors(self, task: Any, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
            found.update(meta | tensors)

    diagnostics.check_consistency(task, Context())  # type: ignore[arg-type]
    return found


CALLS = ("batch_of_one", "repeat_call", "with_gradients", "attack_call")


def differences(found: dict[str, Any]) -> dict[str, list[float]]:
    """The differences that are not zero; each call has a value for each of the first four images."""
    assert all(found[name].shape == (4,) for name in CALLS)
    return {name: found[name].tolist() for name in CALLS if found[name].any()}


def all_four(value: float) -> Any:
    return pytest.approx([value] * 4, abs=1e-6)


def test_a_consistent_defense_differs_nowhere() -> None:
    found = consistency(lambda x, call, noise: 0.5 + 0.5 * (x - 0.5))
    assert differences(found) == {}
    assert found["spread"] == pytest.approx(0.25)
    assert not found["probabilities"]
    assert found["images"] == B


def test_images_alone_and_in_another_batch_are_compared() -> None:
    """The batch has four images, an image alone one, and the stored batch six."""
    found = consistency(lambda x, call, noise: x + 0.01 * len(x))
    assert differences(found) == {"batch_of_one": all_four(0.03)}
    stored = consistency(lambda x, call, noise: x + (0.02 if len(x) == 6 else 0.0))
    assert differences(stored) == {"batch_of_one": all_four(0.02)}


def test_the_largest_difference_of_three_repetitions_counts() -> None:
    """Calls: 1 is stored, 2 the batch, 3 to 6 single images, 7 to 9 the repetitions."""
    found = consistency(lambda x, call, noise: x + (0.05 if call == 8 else 0.0))
    assert differences(found) == {"repeat_call": all_four(0.05)}


def test_a_defense_that_looks_for_gradients_is_found() -> None:
    def purify(x: Tensor, call: int, noise: Noise) -> Tensor:
        return x + (0.04 if torch.is_grad_enabled() else 0.0)

    found = differences(consistency(purify))
    assert found == {"with_gradients": all_four(0.04), "attack_call": all_four(0.04)}


def test_a_deterministic_defense_is_compared_with_its_mean_over_calls_in_attacks() -> None:
    """Calls 12 and 13 are those of an attack; the mean of 0 and 0.06 differs by 0.03."""
    found = consistency(lambda x, call, noise: x + (0.06 if call == 13 else 0.0))
    assert differences(found) == {"attack_call": all_four(0.03)}


def noisy(scale: float) -> Callable[[Tensor, int, Noise], Tensor]:
    return lambda x, call, noise: (x + scale * (noise.uniform_like(x) - 0.5)).clamp(0, 1)


def test_chance_explains_the_differences_of_a_random_defense() -> None:
    assert differences(consistency(noisy(0.2), random=True)) == {}

    def shown_another(x: Tensor, call: int, noise: Noise) -> Tensor:
        moved = x + (0.2 if torch.is_grad_enabled() else 0.0)
        return (moved + 0.01 * (noise.uniform_like(x) - 0.5)).clamp(0, 1)

    found = differences(consistency(shown_another, random=True))
    assert found["attack_call"] == pytest.approx([0.2] * 4, abs=0.02)


def test_the_spread_is_that_of_purified_images_of_one_predicted_class() -> None:
    """A defense that returns one image for each class decides alone."""

    def decides(x: Tensor, call: int, noise: Noise) -> Tensor:
        return (x[:, :, :1, :1] > 0.5).float().expand_as(x).clone()

    assert consistency(decides)["spread"] == 0
    assert consistency(lambda x, call, noise: x.clone())["spread"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("scores", "raised"),
    [
        (lambda x: ByPixel()(x).softmax(dim=1), True),
        (lambda x: ByPixel()(x).softmax(dim=1) * 1.001, False),
        (lambda x: ByPixel()(x).softmax(dim=1) - 0.001, False),
        (lambda x: ByPixel()(x), False),
        (lambda x: 1e4 + 0.1 * ByPixel()(x), True),  # equal up to the precision of float32
        (lambda x: 1e2 + ByPixel()(x), False),
    ],
)
def test_probabilities_and_scores_that_hardly_differ(scores: Any, raised: bool) -> None:
    assert consistency(lambda x, call, noise: x, scores=scores)["probabilities"] == raised


# --- finite differences ------------------------------------------------------------------------------


class Sloped(nn.Module):
    """Two classes whose margin is `height` of a weighted sum of pixels; the gradient may be another one."""

    def __init__(self, height: Callable[[Tensor], Tensor], shown: float | None = None) -> None:
        super().__init__()
        self.weights = torch.randn(16, generator=torch.Generator().manual_seed(5))
        self.height, self.shown = height, shown

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1) @ self.weights
        margins = self.height(total)
        if self.shown is not None:
            margins = margins.detach() + self.shown * (total - total.detach())
        return torch.stack([0 * margins, margins], dim=1)


def slopes(monkeypatch: pytest.MonkeyPatch, *models: nn.Module) -> tuple[list[bool], Tensor]:
    """Whether each image has a slope, and the best cosine, for these surfaces, or surfaces around models."""
    (cell,) = only(PGD, n=B)
    assert cell.checks is not None
    task = cell.checks.finite_differences
    assert isinstance(task, FiniteDifferenceCheck)
    made = [m if isinstance(m, MeteredSurface) else MeteredSurface(m, 2, SHAPE) for m in models]
    surfaces = iter(made)
    task = replace(task, surfaces=task.surfaces[:1] * len(models))
    monkeypatch.setattr(diagnostics, "make_surface", lambda *args: next(surfaces))
    found: dict[str, Tensor] = {}

    class Context:
        device = torch.device("cpu")

        def clean(self, shard: Any) -> tuple[Tensor, Tensor]:
            return CLEAN.clone(), torch.zeros(B, dtype=torch.int64)

        def put_tensors(self, task: Any, tensors: dict[str, Tensor], meta: Any) -> None:
            found.update(tensors)

    diagnostics.check_finite_differences(task, Context())  # type: ignore[arg-type]
    return found["has_slope"].tolist(), found["cosine"]


def straight(total: Tensor) -> Tensor:
    return total


def test_the_gradient_of_a_straight_line_points_along_it(monkeypatch: pytest.MonkeyPatch) -> None:
    has_slope, cosine = slopes(monkeypatch, Sloped(straight))
    assert has_slope == [True] * B
    assert cosine.tolist() == pytest.approx([1.0] * B, abs=0.01)


@pytest.mark.parametrize(("shown", "cosine"), [(-1.0, -1.0), (0.0, 0.0), (5.0, 1.0)])
def test_the_gradient_that_is_shown_is_compared_with_the_slope(
    monkeypatch: pytest.MonkeyPatch, shown: float, cosine: float
) -> None:
    has_slope, found = slopes(monkeypatch, Sloped(straight, shown))
    assert all(has_slope)
    assert found.tolist() == pytest.approx([cosine] * B, abs=0.01)


def test_the_best_surface_counts_and_the_first_one_has_the_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = slopes(monkeypatch, Sloped(straight, 0.0), Sloped(straight, -1.0), Sloped(straight, 1.0))
    assert found.tolist() == pytest.approx([1.0] * B, abs=0.01)
    _, found = slopes(monkeypatch, Sloped(straight, 0.0), Sloped(lambda total: -total))
    assert found.tolist() == pytest.approx([0.0] * B, abs=0.01)


def test_noise_has_no_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    has_slope, found = slopes(monkeypatch, Sloped(lambda total: (1e5 * total).sin(), 1.0))
    assert has_slope == [False] * B
    assert not found.any()


def test_a_coarse_staircase_has_a_slope_at_a_larger_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps are higher than a change of half a hundredth per pixel, and lower than one of a tenth."""
    stairs = Sloped(lambda total: (total / 0.25).round() * 0.25, 1.0)
    has_slope, found = slopes(monkeypatch, stairs)
    assert sum(has_slope) >= B / 2
    assert found[torch.tensor(has_slope)].min() > 0.9


class Bent(nn.Module):
    """A margin that is another function of the offset at each size: weights by the largest mean change.

    Keeps the mean change of the pixels in each call.
    """

    def __init__(self, *pieces: tuple[float, Tensor], wild: bool = False) -> None:
        super().__init__()
        self.pieces, self.wild, self.sizes = pieces, wild, list[float]()
        self.centre = 0.08 + 0.84 * CLEAN

    def forward(self, x: Tensor) -> Tensor:
        offset = (x - self.centre).flatten(1)
        size = float(offset.detach().square().mean().sqrt())
        if not x.requires_grad:
            self.sizes.append(size)
        weights = next(weights for limit, weights in self.pieces if size < limit)
        margins = (1e6 * offset @ weights).sin() if self.wild else offset @ weights
        return torch.stack([0 * margins, margins], dim=1)


ALONG, ACROSS = torch.linalg.qr(torch.randn(16, 2, generator=torch.Generator().manual_seed(1)))[0].T
END = 9.0


@pytest.mark.parametrize(
    ("across", "scale"),
    [(0.1, 1), (0.9, 2)],  # cosines of about 0.995 and 0.74 between the differences of two sizes
)
def test_differences_of_the_two_small_sizes_have_to_be_very_similar(
    monkeypatch: pytest.MonkeyPatch, across: float, scale: int
) -> None:
    """At the larger sizes the slope has the opposite direction, which shows the scale that counted."""
    bent = Bent((0.009, ALONG + across * ACROSS), (0.05, ALONG), (END, -ALONG))
    has_slope, cosine = slopes(monkeypatch, bent, Sloped(straight, 0.0))
    assert sum(has_slope) >= B / 2
    gradient_is_along = bool(cosine[torch.tensor(has_slope)].median() > 0.5)
    assert gradient_is_along == (scale == 1)


def test_three_scales_are_tried_with_their_directions_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any similarity: 12, 24 and 24 directions, both ways, of two sizes each."""
    bent = Bent((END, ALONG), wild=True)
    has_slope, _ = slopes(monkeypatch, bent)
    assert has_slope == [False] * B
    assert len(bent.sizes) == 2 * 2 * (12 + 24 + 24)
    parts = torch.tensor(bent.sizes).split([24, 24, 48, 48, 48, 48])
    means = [part.mean().item() for part in parts]
    assert means[:2] == pytest.approx([0.005, 0.015], rel=0.1)
    assert means[2::2] == pytest.approx([0.1, 0.1], rel=0.15)
    assert all(0.15 < mean < 0.2 for mean in means[3::2])  # the border of the box cuts some changes


def test_a_random_pipeline_gets_the_same_draws_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    defense = Made(noisy(0.5))
    defense.stochastic = True  # type: ignore[misc]
    inputs = SurfaceInputs(Sloped(straight), PurifierModule([defense]), None, None, 2, SHAPE)
    has_slope, cosine = slopes(monkeypatch, build_surface(surface_forms.PIPELINE, inputs, 1))
    assert sum(has_slope) > B / 2
    assert cosine[torch.tensor(has_slope)].median() > 0.7
