"""Gradient attacks inside a ball, compared with those of other libraries and with one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmark.attacks.apgd_ce import ApgdCe, ApgdCeConfig
from benchmark.attacks.apgd_dlr_targeted import ApgdDlrTargeted, ApgdDlrTargetedConfig
from benchmark.attacks.bim import Bim, BimConfig
from benchmark.attacks.fgsm import Fgsm, FgsmConfig
from benchmark.attacks.mim import Mim, MimConfig
from benchmark.attacks.noise import GaussianNoiseAttack, NoiseConfig
from benchmark.attacks.pgd import Pgd, PgdConfig
from torch import nn

from benchmark.api.losses import loss_gradient
from benchmark.api.noise import Noise
from benchmark.execution.surfaces import MeteredSurface
from tests.attacks.trained_classifiers import Scaled, Victim, convolutional, error


@pytest.fixture(scope="module")
def victim() -> Victim:
    return convolutional()


EQUIVALENT = [
    (Fgsm, FgsmConfig, {"eps": 0.05}),
    (Fgsm, FgsmConfig, {"eps": 0.1}),
    (Bim, BimConfig, {"eps": 0.05, "alpha": 0.01, "steps": 20}),
    (Bim, BimConfig, {"eps": 0.1, "alpha": 0.02, "steps": 20, "targeted": "next"}),
    (Pgd, PgdConfig, {"eps": 0.05}),
    (Pgd, PgdConfig, {"eps": 0.1, "targeted": "next"}),
    (Pgd, PgdConfig, {"eps": 1.0, "distance": "l2"}),
]


@pytest.mark.parametrize(("plugin", "config", "settings"), EQUIVALENT)
def test_the_same_attack_is_as_strong_in_foolbox_and_art(
    victim: Victim, plugin: Any, config: Any, settings: dict[str, Any]
) -> None:
    backends = {name: plugin(config(**settings, backend=name)) for name in ("native", "foolbox", "art")}
    errors = {name: victim.error(victim.craft(attack)) for name, attack in backends.items()}
    assert 0.05 < errors["native"] < 1
    for library in ("foolbox", "art"):  # which return the last iterate and not the best one
        assert errors["native"] - 0.03 <= errors[library] <= errors["native"] + 0.01


def test_a_confident_classifier_still_gives_a_gradient(victim: Victim) -> None:
    """The cross-entropy underflows in float32 at such margins; the direction must not."""
    surface, x, labels = victim.surface, victim.x, victim.labels
    confident = nn.Sequential(surface.target, Scaled(1000))
    gradient, _ = loss_gradient(MeteredSurface(confident, 10, (1, 28, 28)), x, labels)
    assert (gradient.abs().flatten(1).amax(dim=1) > 0).all()


def test_the_gradient_has_the_direction_of_the_cross_entropy(victim: Victim) -> None:
    surface, x, labels = victim.surface, victim.x, victim.labels
    gradient, _ = loss_gradient(surface, x, labels)
    exact = x.double().requires_grad_()
    loss = nn.functional.cross_entropy(surface.target.double()(exact), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, exact)
    surface.target.float()
    ours, theirs = (nn.functional.normalize(g.double().flatten(1), eps=1e-300) for g in (gradient, expected))
    cosine = (ours * theirs).sum(dim=1)
    assert cosine.min() > 0.9999


def test_mim_is_as_strong_as_in_foolbox_and_art(victim: Victim) -> None:
    ours, foolbox, art = (
        victim.error(victim.craft(Mim(MimConfig(eps=0.05, steps=20, backend=backend))))
        for backend in ("native", "foolbox", "art")
    )
    assert 0.05 < ours < 0.95
    assert ours >= max(foolbox, art) - 0.01
    assert ours == pytest.approx(art, abs=0.03)


@pytest.mark.parametrize(("distance", "eps"), [("linf", 0.05), ("l2", 0.8)])
def test_apgd_is_as_strong_as_in_art_and_not_weaker_than_pgd(
    victim: Victim, distance: str, eps: float
) -> None:
    settings = {"eps": eps, "distance": distance, "steps": 20}
    ce = victim.error(victim.craft(ApgdCe(ApgdCeConfig(**settings))))
    dlr = victim.error(victim.craft(ApgdDlrTargeted(ApgdDlrTargetedConfig(**settings, classes=3))))
    art = victim.error(victim.craft(ApgdCe(ApgdCeConfig(**settings, backend="art"))))
    assert 0.05 < ce < 0.95
    assert ce >= art - 0.01
    assert dlr >= ce - 0.01
    if distance == "linf":
        pgd = victim.error(victim.craft(Pgd(PgdConfig(eps=eps, steps=20))))
        assert ce >= pgd - 0.01


def test_images_stay_in_the_l2_ball(victim: Victim) -> None:
    x = victim.x
    settings = {"eps": 1.5, "distance": "l2", "steps": 10}
    attacks = [
        ApgdCe(ApgdCeConfig(**settings)),
        ApgdDlrTargeted(ApgdDlrTargetedConfig(**settings, classes=2)),
        Pgd(PgdConfig(**settings)),
    ]
    for attack in attacks:
        images = victim.craft(attack)
        sizes = (images - x).flatten(1).norm(dim=1)
        assert sizes.max() <= 1.5 + 1e-5
        assert sizes.median() > 1.4
        assert images.min() >= 0
        assert images.max() <= 1
        assert attack.norm == "l2"


def test_a_confident_classifier_does_not_stop_apgd(victim: Victim) -> None:
    """With a cross-entropy of zero in float32 the step size would be halved without reason."""
    surface, x, labels = victim.surface, victim.x, victim.labels
    confident = MeteredSurface(nn.Sequential(surface, Scaled(1e4)), 10, (1, 28, 28)).eval()
    attack = ApgdCe(ApgdCeConfig(eps=0.06, steps=20))
    plain, scaled = (
        error(surface, attack.craft(s, x, labels, Noise(0, range(len(x)))), labels)
        for s in (surface, confident)
    )
    assert scaled >= plain - 0.04


def test_the_targeted_dlr_needs_four_classes() -> None:
    surface = MeteredSurface(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), 3, (1, 28, 28)).eval()
    attack = ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0.1, steps=2))
    with pytest.raises(ValueError, match="four classes"):
        attack.craft(surface, torch.rand(2, 1, 28, 28), torch.tensor([0, 1]), Noise(0, range(2)))


def test_more_steps_and_restarts_are_not_weaker(victim: Victim) -> None:
    weak = victim.error(victim.craft(Fgsm(FgsmConfig(eps=0.08))))
    strong = victim.error(victim.craft(Pgd(PgdConfig(eps=0.08, steps=20))))
    stronger = victim.error(victim.craft(Pgd(PgdConfig(eps=0.08, steps=20, restarts=3))))
    assert weak < strong <= stronger


def test_bim_keeps_the_iterate_with_the_largest_margin(victim: Victim) -> None:
    steps = [victim.error(victim.craft(Bim(BimConfig(eps=0.1, alpha=0.1, steps=n)))) for n in (1, 2, 5)]
    assert steps == sorted(steps)


def test_noise_has_the_configured_variance(victim: Victim) -> None:
    x = victim.x
    grey = torch.full_like(x, 0.5)
    noisy = GaussianNoiseAttack(NoiseConfig(variance=0.01)).craft(
        victim.surface, grey, victim.labels, Noise(0, range(len(x)))
    )
    assert (noisy - grey).var().item() == pytest.approx(0.01, rel=0.02)
