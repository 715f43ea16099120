"""Attacks against other libraries' on the same model and images; balls, boxes, awkward inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.apgd_ce import ApgdCe, ApgdCeConfig
from attacks.apgd_dlr_targeted import ApgdDlrTargeted, ApgdDlrTargetedConfig
from attacks.art_adapter import run_art
from attacks.ball import Ball
from attacks.bim import Bim, BimConfig
from attacks.contract import Attack
from attacks.deepfool import DeepFool, DeepFoolConfig
from attacks.fgsm import Fgsm, FgsmConfig
from attacks.foolbox_adapter import run_foolbox
from attacks.gradients import loss_gradient
from attacks.mim import Mim, MimConfig
from attacks.noise import GaussianNoise, NoiseConfig
from attacks.pgd import Pgd, PgdConfig
from benchmark.datasets.contract import TrainingData
from benchmark.datasets.digits import Digits
from benchmark.noise import Noise
from benchmark.plugin import Config
from benchmark.threats.surfaces import MeteredSurface
from targets.mnist_cnn import MnistC, MnistCnnConfig

N = 200


@pytest.fixture(scope="module")
def victim() -> tuple[MeteredSurface, Tensor, Tensor]:
    """A trained classifier of digits, and images with their labels."""
    from pathlib import Path

    splits = Digits(Config(), Path()).splits()
    data = TrainingData(splits.train, splits.validation, (1, 28, 28), 10, torch.device("cpu"))
    torch.manual_seed(0)
    model = MnistC(MnistCnnConfig(min_steps=80), (1, 28, 28), 10)
    model.fit(data, torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    images, labels = splits.test.take(torch.arange(N)), splits.test.labels[:N]
    return MeteredSurface(model.eval(), 10, (1, 28, 28)).eval(), images, labels


def error(surface: nn.Module, x: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((surface(x).argmax(dim=1) != labels).float().mean())


def craft(attack: Attack[Any], victim: tuple[MeteredSurface, Tensor, Tensor]) -> Tensor:
    surface, x, labels = victim
    torch.manual_seed(1)
    np.random.seed(1)
    return attack.craft(surface, x, labels, Noise(0, range(len(x))))


class _Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, scores: Tensor) -> Tensor:
        return self.factor * scores


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.2])
def test_fgsm_agrees_with_foolbox_and_art(victim, eps: float) -> None:
    from art.attacks.evasion import FastGradientMethod
    from foolbox.attacks import LinfFastGradientAttack

    surface, x, labels = victim
    ours = error(surface, craft(Fgsm(FgsmConfig(eps=eps)), victim), labels)
    foolbox = run_foolbox(LinfFastGradientAttack(random_start=False), surface, x, labels, eps=eps)
    art = run_art(lambda c: FastGradientMethod(c, eps=eps, batch_size=N), surface, x, labels)
    assert error(surface, foolbox, labels) == pytest.approx(ours, abs=0.01)
    assert error(surface, art, labels) == pytest.approx(ours, abs=0.01)
    assert ours > 0.1


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_pgd_agrees_with_its_foolbox_and_art_backends(victim, eps: float) -> None:
    surface, _, labels = victim
    errors = {
        backend: error(surface, craft(Pgd(PgdConfig(eps=eps, steps=40, backend=backend)), victim), labels)
        for backend in ("native", "foolbox", "art")
    }
    assert errors["foolbox"] == pytest.approx(errors["native"], abs=0.01)
    assert errors["art"] == pytest.approx(errors["native"], abs=0.01)


BALLS = [
    Fgsm(FgsmConfig(eps=0.3)),
    Bim(BimConfig(eps=0.3, steps=12)),
    Pgd(PgdConfig(eps=0.3, steps=5, restarts=2)),
    Pgd(PgdConfig(eps=0.3, steps=5, alpha=0.2)),
    Pgd(PgdConfig(eps=0.3, steps=5, backend="foolbox")),
    Pgd(PgdConfig(eps=0.3, steps=5, backend="art")),
    Mim(MimConfig(eps=0.3, steps=5)),
    Mim(MimConfig(eps=0.3, steps=5, backend="foolbox")),
    Mim(MimConfig(eps=0.3, steps=5, backend="art")),
    ApgdCe(ApgdCeConfig(eps=0.3, steps=5, restarts=2)),
    ApgdCe(ApgdCeConfig(eps=0.3, steps=5, backend="art")),
    ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0.3, steps=5, classes=2)),
    ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0.3, steps=5, classes=2, backend="art")),
]


@pytest.mark.parametrize("attack", BALLS, ids=lambda a: f"{a.name}-{a.backend}")
def test_images_stay_in_ball_and_box_and_the_input_is_left_alone(victim, attack: Attack[Any]) -> None:
    _, x, _ = victim
    before = x.clone()
    images = craft(attack, victim)
    assert torch.equal(x, before)
    assert (images - x).abs().max() <= 0.3 + 1e-6
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images - x).abs().max() > 0.29


@pytest.mark.parametrize(
    "attack",
    [
        Fgsm(FgsmConfig(eps=0)),
        Bim(BimConfig(eps=0)),
        Pgd(PgdConfig(eps=0, steps=3)),
        Mim(MimConfig(eps=0, steps=3)),
        ApgdCe(ApgdCeConfig(eps=0, steps=3)),
        ApgdCe(ApgdCeConfig(eps=0, steps=3, backend="art")),
        ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0, steps=3, classes=2)),
        ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0, steps=3, classes=2, backend="art")),
    ],
    ids=lambda a: f"{a.name}-{a.backend}",
)
def test_an_empty_ball_changes_nothing(victim, attack: Attack[Any]) -> None:
    assert torch.allclose(craft(attack, victim), victim[1], atol=1e-7)


def test_a_confident_classifier_still_gives_a_gradient(victim) -> None:
    """Cross-entropy underflows in float32 at such margins; the direction must not."""
    surface, x, labels = victim
    confident = nn.Sequential(surface.target, _Scaled(1000))
    gradient, _ = loss_gradient(MeteredSurface(confident, 10, (1, 28, 28)), x, labels)
    assert (gradient.abs().flatten(1).amax(dim=1) > 0).all()


def test_the_gradient_points_where_cross_entropy_does(victim) -> None:
    surface, x, labels = victim
    gradient, _ = loss_gradient(surface, x, labels)
    exact = x.double().requires_grad_()
    loss = nn.functional.cross_entropy(surface.target.double()(exact), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, exact)
    surface.target.float()
    cosine = nn.functional.cosine_similarity(gradient.double().flatten(1), expected.flatten(1))
    assert cosine.min() > 0.9999


def test_mim_is_as_strong_as_in_foolbox_and_art(victim) -> None:
    surface, _, labels = victim
    ours, foolbox, art = (
        error(surface, craft(Mim(MimConfig(eps=0.05, steps=20, backend=backend)), victim), labels)
        for backend in ("native", "foolbox", "art")
    )
    assert 0.05 < ours < 0.95
    assert ours >= max(foolbox, art) - 0.01
    assert ours == pytest.approx(art, abs=0.03)


@pytest.mark.parametrize(("distance", "eps"), [("linf", 0.05), ("l2", 0.8)])
def test_apgd_is_as_strong_as_in_art_and_not_weaker_than_pgd(victim, distance: str, eps: float) -> None:
    surface, _, labels = victim
    settings = {"eps": eps, "distance": distance, "steps": 20}
    ce = error(surface, craft(ApgdCe(ApgdCeConfig(**settings)), victim), labels)
    dlr = error(surface, craft(ApgdDlrTargeted(ApgdDlrTargetedConfig(**settings, classes=3)), victim), labels)
    art = error(surface, craft(ApgdCe(ApgdCeConfig(**settings, backend="art")), victim), labels)
    assert 0.05 < ce < 0.95
    assert ce >= art - 0.01
    assert dlr >= ce - 0.01
    if distance == "linf":
        pgd = error(surface, craft(Pgd(PgdConfig(eps=eps, steps=20)), victim), labels)
        assert ce >= pgd - 0.01


def test_l2_balls_are_kept_in_l2(victim) -> None:
    _, x, _ = victim
    settings = {"eps": 1.5, "distance": "l2", "steps": 10}
    attacks = [
        ApgdCe(ApgdCeConfig(**settings)),
        ApgdDlrTargeted(ApgdDlrTargetedConfig(**settings, classes=2)),
    ]
    for attack in attacks:
        images = craft(attack, victim)
        sizes = (images - x).flatten(1).norm(dim=1)
        assert sizes.max() <= 1.5 + 1e-5
        assert sizes.median() > 1.4
        assert images.min() >= 0
        assert images.max() <= 1
        assert attack.norm == "l2"


def test_random_points_fill_the_ball(victim) -> None:
    grey = torch.full((50, 1, 28, 28), 0.5)
    for norm, eps in (("linf", 0.1), ("l2", 2.0)):
        offset = (Ball(grey, eps, norm).random_point(Noise(0, range(50))) - grey).flatten(1)
        sizes = offset.abs().amax(dim=1) if norm == "linf" else offset.norm(dim=1)
        assert sizes.max() <= eps + 1e-5
        assert sizes.min() > 0.98 * eps  # in so many dimensions all volume is at the rim
        assert offset.mean().abs() < 0.01 * eps


def test_a_sure_classifier_does_not_stop_apgd(victim) -> None:
    """Where the cross-entropy is zero in float32, its step size would halve for nothing."""
    surface, x, labels = victim
    sure = MeteredSurface(nn.Sequential(surface, _Scaled(1e4)), 10, (1, 28, 28)).eval()
    attack = ApgdCe(ApgdCeConfig(eps=0.06, steps=20))
    plain, scaled = (
        error(surface, attack.craft(s, x, labels, Noise(0, range(len(x)))), labels) for s in (surface, sure)
    )
    assert scaled >= plain - 0.04


def test_the_targeted_ratio_needs_four_classes() -> None:
    surface = MeteredSurface(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), 3, (1, 28, 28)).eval()
    attack = ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0.1, steps=2))
    with pytest.raises(ValueError, match="four classes"):
        attack.craft(surface, torch.rand(2, 1, 28, 28), torch.tensor([0, 1]), Noise(0, range(2)))


def test_more_steps_and_restarts_are_not_weaker(victim) -> None:
    surface, _, labels = victim
    weak = error(surface, craft(Fgsm(FgsmConfig(eps=0.08)), victim), labels)
    strong = error(surface, craft(Pgd(PgdConfig(eps=0.08, steps=20)), victim), labels)
    stronger = error(surface, craft(Pgd(PgdConfig(eps=0.08, steps=20, restarts=3)), victim), labels)
    assert weak < strong <= stronger


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"steps": 40}, True),
        ({"steps": 5}, False),
        ({"steps": 40, "alpha": 0.001}, False),
        ({"steps": 10, "alpha": 0.06}, True),
    ],
)
def test_only_a_pgd_that_can_cross_the_ball_makes_a_ball_ranked(
    settings: dict[str, Any], counts: bool
) -> None:
    assert Pgd(PgdConfig(eps=0.3, **settings)).mandatory == counts


def test_bim_keeps_its_most_wrong_iterate(victim) -> None:
    surface, _, labels = victim
    steps = [
        error(surface, craft(Bim(BimConfig(eps=0.1, alpha=0.1, steps=n)), victim), labels) for n in (1, 2, 5)
    ]
    assert steps == sorted(steps)


@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_deepfool_finds_the_boundary_nearer_than_fgsm(victim, distance: str) -> None:
    surface, x, labels = victim
    found = craft(DeepFool(DeepFoolConfig(distance=distance)), victim)
    size = (found - x).flatten(1).norm(dim=1)
    right = surface(x).argmax(dim=1) == labels
    assert error(surface, found[right], labels[right]) > 0.98
    assert 0.05 < size[right].median() < 0.3 * 28


def test_noise_has_the_variance_that_was_asked_for(victim) -> None:
    _, x, _ = victim
    grey = torch.full_like(x, 0.5)
    noisy = GaussianNoise(NoiseConfig(variance=0.01)).craft(
        victim[0], grey, victim[2], Noise(0, range(len(x)))
    )
    assert (noisy - grey).var().item() == pytest.approx(0.01, rel=0.02)


def test_colour_images_and_a_hundred_classes_work() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 100))
    surface = MeteredSurface(model, 100, (3, 32, 32)).eval()
    x = torch.rand(5, 3, 32, 32)
    labels = surface(x).argmax(dim=1)
    for attack in [*BALLS, DeepFool(DeepFoolConfig())]:
        images = attack.craft(surface, x, labels, Noise(0, range(5)))
        assert error(surface, images, labels) > 0.5, attack.name


def test_one_image_alone_works(victim) -> None:
    surface, x, labels = victim
    for attack in BALLS:
        assert attack.craft(surface, x[:1], labels[:1], Noise(0, [0])).shape == (1, 1, 28, 28)
