"""Minimal-norm attacks: success and distance, also compared with other libraries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmark.attacks.cw_l0 import CwL0, CwL0Config
from benchmark.attacks.cw_l2 import CwL2, CwL2Config
from benchmark.attacks.cw_linf import CwLinf, CwLinfConfig
from benchmark.attacks.deepfool import DeepFool, DeepFoolConfig
from benchmark.attacks.jsma import Jsma, JsmaConfig, best_pair
from benchmark.attacks.l_bfgs import LBfgs, LBfgsConfig, run_batched
from benchmark.attacks.pgd import Pgd, PgdConfig
from torch import Tensor, nn

from benchmark.api.attack import Attack
from benchmark.api.losses import margin
from benchmark.execution.surfaces import MeteredSurface
from benchmark.metrics.image_quality import norms
from tests.attacks.trained_classifiers import Scaled, Victim, convolutional, dense


@pytest.fixture(scope="module")
def victim() -> Victim:
    return convolutional(count=30)


_CRAFTED: dict[tuple[Victim, str, str], Tensor] = {}


def crafted(victim: Victim, attack: Attack[Any]) -> Tensor:
    """The images of an attack on a victim; cached for all tests."""
    key = (victim, attack.name, attack.config.model_dump_json())
    if key not in _CRAFTED:
        _CRAFTED[key] = victim.craft(attack)
    return _CRAFTED[key]


def found(victim: Victim, attack: Attack[Any], norm: str) -> tuple[float, float]:
    """Success rate and median norm (failures count as infinite) of correctly classified images."""
    images = crafted(victim, attack)
    with torch.no_grad():
        wrong = victim.surface(images).argmax(dim=1) != victim.labels
    size = norms(images, victim.x)[norm].masked_fill(~wrong, float("inf"))
    return float(wrong[victim.correct].float().mean()), float(size[victim.correct].median())


NEAREST: dict[str, list[Attack[Any]]] = {
    "l2": [
        CwL2(CwL2Config()),
        CwL2(CwL2Config(box="tanh", steps=200, search_steps=4)),
        LBfgs(LBfgsConfig(steps=20, search_steps=4)),
        DeepFool(DeepFoolConfig()),
    ],
    "linf": [CwLinf(CwLinfConfig()), DeepFool(DeepFoolConfig(distance="linf"))],
    "l0": [CwL0(CwL0Config()), Jsma(JsmaConfig())],
}


def test_every_attack_succeeds_and_the_optimisers_find_the_smallest_norms(victim: Victim) -> None:
    figures = {norm: [found(victim, attack, norm) for attack in all_] for norm, all_ in NEAREST.items()}
    for norm, results in figures.items():
        assert all(success >= 0.99 for success, _ in results), norm
        sizes = [size for _, size in results]
        # in L∞ the nearest class may be another than the class with the highest logit, to which CW leads
        assert sizes[0] <= (1.05 if norm == "linf" else 1.005) * min(sizes), (norm, sizes)
    l2 = [size for _, size in figures["l2"]]
    assert l2[1] <= 1.02 * l2[0]
    assert l2[2] <= 1.1 * l2[0]
    assert l2[3] <= 1.3 * l2[0]


@pytest.mark.parametrize(
    ("native", "library", "norm"),
    [
        (CwL2(CwL2Config()), CwL2(CwL2Config(backend="foolbox", search_steps=5, lr=0.05)), "l2"),
        (DeepFool(DeepFoolConfig()), DeepFool(DeepFoolConfig(backend="foolbox")), "l2"),
        (
            DeepFool(DeepFoolConfig(distance="linf")),
            DeepFool(DeepFoolConfig(distance="linf", backend="foolbox")),
            "linf",
        ),
        (DeepFool(DeepFoolConfig()), DeepFool(DeepFoolConfig(backend="art")), "l2"),
        (Jsma(JsmaConfig()), Jsma(JsmaConfig(backend="art")), "l0"),
    ],
    ids=["cw-l2-foolbox", "deepfool-l2-foolbox", "deepfool-linf-foolbox", "deepfool-l2-art", "jsma-art"],
)
def test_native_is_not_weaker_than_the_library(
    victim: Victim, native: Attack[Any], library: Attack[Any], norm: str
) -> None:
    ours, theirs = found(victim, native, norm), found(victim, library, norm)
    assert ours[0] >= theirs[0] - 0.02
    assert ours[1] <= 1.01 * theirs[1]


def test_the_distance_of_cw_linf_is_the_smallest_radius_at_which_pgd_succeeds(victim: Victim) -> None:
    _, size = found(victim, CwLinf(CwLinfConfig()), "linf")

    def pgd_error(eps: float) -> float:
        return victim.error(victim.craft(Pgd(PgdConfig(eps=eps, steps=50))))

    assert pgd_error(0.85 * size) < 0.5 < pgd_error(1.15 * size)


def test_kappa_is_the_margin_that_is_reached(victim: Victim) -> None:
    few = Victim(victim.surface, victim.x[:10], victim.labels[:10])
    for attack in (
        CwL2(CwL2Config(kappa=3.0, steps=100, search_steps=3)),
        CwLinf(CwLinfConfig(kappa=3.0)),
        CwL0(CwL0Config(kappa=3.0)),
    ):
        images = few.craft(attack)
        with torch.no_grad():
            margins = margin(few.surface(images), few.labels)
        assert (margins > 2.99).float().mean() > 0.95


def linear(weights: Tensor, x: Tensor, scale: float = 1.0) -> Victim:
    """Two classes separated along one direction, with the boundary at a projection of 0.5."""
    layer = nn.Linear(x[0].numel(), 2)
    layer.weight.data = scale * torch.stack([-weights, weights])
    layer.bias.data = scale * torch.tensor([0.5, -0.5])
    model = nn.Sequential(nn.Flatten(), layer).requires_grad_(False)
    surface = MeteredSurface(model, 2, (1, 8, 8)).eval()
    return Victim(surface, x, surface(x).argmax(dim=1))


NATIVE = (CwL2(CwL2Config()), CwLinf(CwLinfConfig()), CwL0(CwL0Config()), DeepFool(DeepFoolConfig()))


@pytest.mark.parametrize("attack", NATIVE, ids=lambda a: a.name)
@pytest.mark.parametrize("scale", [0.02, 1.0, 100.0])
def test_far_boundaries_and_small_gradients_do_not_stop_attacks(attack: Attack[Any], scale: float) -> None:
    x = torch.full((4, 1, 8, 8), 0.1)
    victim = linear(torch.full((64,), 1 / 64), x, scale)
    images = victim.craft(attack)
    assert victim.error(images) == 1
    if attack.norm == "linf":
        assert (images - x).abs().amax() == pytest.approx(0.4, abs=0.05)


def test_with_an_unreachable_kappa_the_largest_margin_is_kept(victim: Victim) -> None:
    few = Victim(victim.surface, victim.x[:10], victim.labels[:10])
    for attack in (
        CwL2(CwL2Config(kappa=1e4, search_steps=2, steps=50)),
        CwLinf(CwLinfConfig(kappa=1e4)),
        CwL0(CwL0Config(kappa=1e4, largest_c=1e3)),
    ):
        assert few.error(few.craft(attack)) > 0.9, attack.name


def test_images_without_an_adversarial_example_stay_clean() -> None:
    """A failed attack must not return a large perturbation that counts as an attack."""
    easy = dense(20)
    surface = MeteredSurface(_ConstantLogits(easy.labels), 10, (1, 28, 28)).eval()
    stubborn = Victim(surface, easy.x, easy.labels)
    for attack in (
        CwL2(CwL2Config(steps=5)),
        CwL2(CwL2Config(steps=5, backend="foolbox")),
        CwLinf(CwLinfConfig(steps=5)),
        CwL0(CwL0Config(steps=5)),
        DeepFool(DeepFoolConfig(steps=3)),
        DeepFool(DeepFoolConfig(steps=3, backend="art")),
        Jsma(JsmaConfig()),
    ):
        assert torch.equal(stubborn.craft(attack), stubborn.x), attack.name


class _ConstantLogits(nn.Module):
    """Returns the label of each position of the batch for any image; needs the whole batch."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.scores = 100 * nn.functional.one_hot(labels, 10).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.scores[: len(x)] + 0 * x.flatten(1).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("backend", ["native", "foolbox", "art"])
def test_barely_misclassified_images_are_not_moved_back(backend: Any) -> None:
    x = torch.full((4, 1, 8, 8), 0.501)
    victim = linear(torch.full((64,), 1 / 64), x)
    wrong = Victim(victim.surface, x, 1 - victim.labels)
    assert wrong.error(wrong.craft(DeepFool(DeepFoolConfig(backend=backend)))) == 1


@pytest.mark.parametrize(
    "attack",
    [
        CwL2(CwL2Config(steps=50, search_steps=4)),
        *NATIVE[1:],
        Jsma(JsmaConfig()),
        LBfgs(LBfgsConfig(steps=10, search_steps=4)),
    ],
    ids=lambda a: a.name,
)
def test_a_batch_needs_no_more_passes_than_its_images_alone(attack: Attack[Any]) -> None:
    """It finds the same images too."""
    victim = dense(5)
    meter = victim.surface.meter

    def passes(images: Victim) -> tuple[int, Tensor]:
        before = meter.forwards + meter.backwards
        adversarial = images.craft(attack)
        return meter.forwards + meter.backwards - before, adversarial

    batch_count, adversarial = passes(victim)
    alone = [passes(Victim(victim.surface, victim.x[i : i + 1], victim.labels[i : i + 1])) for i in range(5)]
    # a batch rounds differently, so l-bfgs takes other steps; waiting would cost several times as many passes
    assert batch_count <= 1.5 * sum(count for count, _ in alone)
    norms_alone = norms(torch.cat([images for _, images in alone]), victim.x)
    norm = attack.norm or "l2"
    assert torch.allclose(norms(adversarial, victim.x)[norm], norms_alone[norm], rtol=0.1)


def test_a_small_theta_changes_as_many_pixels_as_gamma_allows() -> None:
    victim = dense(40)
    for theta in (1.0, 0.6, 0.1):
        images = victim.craft(Jsma(JsmaConfig(theta=theta)))
        assert victim.error(images) > 0.9
        assert norms(images, victim.x)["l0"].max() <= 0.145 * 784


def test_gamma_below_two_pixels_is_refused() -> None:
    for backend in ("native", "art"):
        with pytest.raises(ValueError, match="two change at a time"):
            dense(2).craft(Jsma(JsmaConfig(gamma=0.002, backend=backend)))


@pytest.mark.parametrize(
    "attack",
    [
        Pgd(PgdConfig(eps=3.0, distance="l2")),
        DeepFool(DeepFoolConfig()),
        CwLinf(CwLinfConfig()),
        CwL0(CwL0Config()),
        Jsma(JsmaConfig()),
    ],
    ids=lambda a: a.name,
)
def test_the_scale_of_the_logits_does_not_matter(attack: Attack[Any]) -> None:
    victim = dense(20)
    tiny = MeteredSurface(nn.Sequential(victim.surface.target, Scaled(1e-12)), 10, (1, 28, 28)).eval()
    faint = Victim(tiny, victim.x, victim.labels)
    assert faint.error(faint.craft(attack)) >= victim.error(victim.craft(attack)) - 0.15


@pytest.mark.parametrize("scale", [1e-7, 1e4])
def test_cw_l2_finds_its_constant_at_any_scale_of_the_logits(scale: float) -> None:
    """A weight of the margin works only within a few powers of ten."""
    victim = convolutional(10)
    scaled = MeteredSurface(nn.Sequential(victim.surface.target, Scaled(scale)), 10, (1, 28, 28)).eval()
    norms_at = []
    for one in (victim, Victim(scaled, victim.x, victim.labels)):
        images = crafted(one, CwL2(CwL2Config(steps=100)))
        assert one.error(images) == 1
        norms_at.append(norms(images, one.x)["l2"].mean().item())
    assert norms_at[1] == pytest.approx(norms_at[0], rel=0.05)


class Decoys(nn.Module):
    """Four classes whose linearised boundaries are near but move away; the fifth is farther and does not."""

    def forward(self, x: Tensor) -> Tensor:
        red, others = x[:, 0].flatten(1).mean(dim=1), x[:, 1:].flatten(1).mean(dim=1)
        decoys = [1 - 0.01 * i - 0.2 * torch.exp(-30 * red) for i in range(1, 5)]
        return torch.stack([torch.ones_like(red), *decoys, 2 * others], dim=1)


@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_deepfool_considers_more_than_the_nearest_classes(distance: Any) -> None:
    surface = MeteredSurface(Decoys(), 6, (3, 32, 32)).eval()
    victim = Victim(surface, torch.full((2, 3, 32, 32), 0.1), torch.zeros(2, dtype=torch.int64))
    assert victim.error(victim.craft(DeepFool(DeepFoolConfig(distance=distance)))) == 1


@pytest.mark.parametrize("backend", ["native", "art"])
def test_gamma_counts_pixels_of_colour_images(backend: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10)).requires_grad_(False)
    surface = MeteredSurface(model, 10, (3, 8, 8)).eval()
    x = torch.rand(10, 3, 8, 8)
    images = Victim(surface, x, surface(x).argmax(dim=1)).craft(Jsma(JsmaConfig(gamma=0.05, backend=backend)))
    assert norms(images, x)["l0"].max() <= 0.05 * 64


def test_the_best_pair_is_the_best_of_all_pairs() -> None:
    torch.manual_seed(0)
    toward, away = torch.randn(30, 60), torch.randn(30, 60)
    free = torch.rand(30, 60) > 0.3
    first, second, gain = best_pair(toward, away, free)
    sums = [t[:, :, None] + t[:, None, :] for t in (toward, -away)]
    table = sums[0].clamp_min(0) * sums[1].clamp_min(0)
    allowed = free[:, :, None] & free[:, None, :] & ~torch.eye(60, dtype=torch.bool)
    assert torch.equal(gain, (table * allowed).flatten(1).amax(dim=1))
    rows = torch.arange(30)
    assert torch.equal(table[rows, first, second], gain)
    assert allowed[rows, first, second].all()


def test_without_a_valid_pair_the_saliency_is_zero() -> None:
    toward = -torch.ones(2, 5)
    assert torch.equal(best_pair(toward, -toward, torch.ones(2, 5, dtype=torch.bool))[2], torch.zeros(2))


def test_requests_of_several_jobs_are_evaluated_in_batches() -> None:
    batches = []

    def evaluate_batch(numbers: Any, requests: Any) -> list[int]:
        batches.append(list(numbers))
        return [10 * number + request for number, request in zip(numbers, requests, strict=True)]

    results: dict[int, list[int]] = {}

    def job(number: int, evaluate: Any) -> None:
        results[number] = [evaluate(i) for i in range(number)]

    run_batched(job, 4, evaluate_batch)
    assert results == {0: [], 1: [10], 2: [20, 21], 3: [30, 31, 32]}
    assert batches == [[1, 2, 3], [2, 3], [3]]


@pytest.mark.parametrize("culprit", ["job", "evaluation"])
def test_an_error_ends_all_jobs(culprit: str) -> None:
    ended = []

    def evaluate_batch(numbers: Any, requests: Any) -> list[int]:
        if culprit == "evaluation":
            raise ValueError("no")
        return [0] * len(numbers)

    def job(number: int, evaluate: Any) -> None:
        try:
            for _ in range(1000):
                evaluate(0)
                if culprit == "job" and number == 1:
                    raise ValueError("no")
        except ValueError:
            ended.append(number)
            raise

    with pytest.raises(ValueError, match="no"):
        run_batched(job, 3, evaluate_batch)
    assert sorted(ended) == [0, 1, 2]
