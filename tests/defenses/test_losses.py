"""The losses of trained defenses by value and sign: a loss with the wrong sign still trains something."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmark.defenses import defense_gan, iso_gan
from benchmark.defenses.defense_gan import DefenseGan, DefenseGanConfig
from benchmark.defenses.iso_gan import IsoGan, IsoGanConfig
from benchmark.defenses.magnet import Magnet, MagnetConfig
from benchmark.defenses.nets.training_steps import StopCriterion, adversarial_batch
from benchmark.defenses.puvae import PuVae, PuVaeConfig
from torch import Tensor, nn

from benchmark.api.dataset import TensorSplit, TrainingData
from benchmark.api.noise import Noise

SHAPE = (1, 28, 28)


def images(*brightness: float) -> Tensor:
    return torch.tensor(brightness)[:, None, None, None].expand(-1, *SHAPE).clone()


def data(*brightness: float, label: int = 1, validation: Tensor | None = None) -> TrainingData:
    """Grey training images; a batch of all of them is the same whatever their order."""
    x = images(*brightness)
    train = TensorSplit(x, torch.full((len(x),), label))
    held_out = x if validation is None else validation
    return TrainingData(
        train, TensorSplit(held_out, torch.full((len(held_out),), label)), SHAPE, 3, torch.device("cpu")
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Score(nn.Module):
    """A discriminator or critic: weight · mean pixel + bias."""

    def __init__(self, weight: float, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x.flatten(1).mean(dim=1, keepdim=True) + self.bias


class Source(nn.Module):
    """The scores of three classes are multiples of the mean pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(dim=1, keepdim=True) * torch.tensor([[1.0, 2.0, -3.0]])


def log_probability(x: float, label: int) -> float:
    scores = [x, 2 * x, -3 * x]
    return scores[label] - math.log(sum(map(math.exp, scores)))


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


@dataclass
class OneStep:
    """Stands for the optimisers of a training: the gradients of each are kept, and nothing moves."""

    gradients: list[list[Tensor | None]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = self.gradients

        class Still(torch.optim.SGD):
            def __init__(self, parameters: Iterator[nn.Parameter], lr: float, **_: Any) -> None:
                super().__init__(parameters, lr=lr)

            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                parameters = self.param_groups[0]["params"]
                kept.append([None if p.grad is None else p.grad.clone() for p in parameters])

        monkeypatch.setattr(torch.optim, "Adam", Still)


@pytest.fixture
def optimisers(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor | None]]:
    """The gradients of each optimiser step of the test, in their order."""
    one = OneStep()
    one.install(monkeypatch)
    return one.gradients


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters))


def equal(found: Sequence[Tensor | None], expected: Sequence[Tensor]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(a is not None and torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in pairs)


# --- the isomorphic-loss GAN ---------------------------------------------------------------------------

CLEAN, REPAIRED, RECOVERED = 0.2, 0.5, 0.6


def iso_losses(**config: Any) -> dict[str, float]:
    defense = IsoGan(IsoGanConfig(**config), SHAPE, 3)
    x, repaired, recovered = (images(value, value) for value in (CLEAN, REPAIRED, RECOVERED))
    losses = defense._losses(Score(4.0, -1.0), Source(), x, torch.tensor([1, 1]), repaired, recovered)
    return {name: loss.item() for name, loss in losses.items()}


def test_every_loss_of_the_generator_of_iso_gan_by_value() -> None:
    weights = {"repair_weight": 2.0, "recovery_weight": 3.0, "iso_weight": 5.0, "gan_weight": 7.0}
    weights |= {"label_weight": 11.0, "clean_label_weight": 13.0, "pair_label_weight": 17.0}
    repaired, recovered = (
        [math.exp(log_probability(x, label)) for label in range(3)] for x in (REPAIRED, RECOVERED)
    )
    divergence = sum(q * math.log(q / p) for p, q in zip(repaired, recovered, strict=True))
    assert iso_losses(**weights) == pytest.approx(
        {
            "repair": 2 * 0.3**2,
            "recovery": 3 * 0.4**2,
            "iso": 5 * 0.1**2,
            # −log D is low if the discriminator takes both kinds of images for real
            "gan": 7 * (softplus(-(4 * REPAIRED - 1)) + softplus(-(4 * RECOVERED - 1))) / 2,
            "label": -11 * log_probability(REPAIRED, 1),
            "clean_label": -13 * log_probability(RECOVERED, 1),
            "pair_label": 17 * divergence,
        },
        rel=1e-4,
    )


def test_a_loss_of_iso_gan_without_a_weight_is_left_out() -> None:
    assert "label" not in iso_losses(label_weight=0.0)
    pair = iso_losses(label_weight=0.0, pair_label_weight=1.0)
    assert pair["label"] == pair["clean_label"] == 0
    assert "pair_label" not in iso_losses(clean_label_weight=1.0)


def test_iso_gan_trains_both_networks_on_the_fgsm_images_of_the_source(
    monkeypatch: pytest.MonkeyPatch, optimisers: list[list[Tensor | None]]
) -> None:
    """The discriminator first, on detached images: real ones against the mean of both kinds of fakes."""
    critic, weak = Score(2.0, 0.5), nn.Conv2d(1, 1, 1)
    monkeypatch.setattr(iso_gan, "build_discriminator", lambda shape: critic)
    config = IsoGanConfig(min_steps=0, batch_size=3, eps=0.1, iso_weight=2.0, pair_label_weight=0.5)
    defense = IsoGan(config, SHAPE, 3)
    defense.generator = nn.Sequential(weak)
    defense.fit(training := data(0.2, 0.5, 0.7), Source(), generator())

    clean, labels = training.take(torch.arange(3))
    attacked = adversarial_batch("fgsm", Source(), clean, labels, 0.1)
    assert (attacked - clean).abs().amax().item() == pytest.approx(0.1)
    repaired, recovered = weak(attacked), weak(clean)
    fake = torch.cat([critic(repaired.detach()), critic(recovered.detach())])
    of_critic = F.softplus(-critic(clean)).mean() + F.softplus(fake).mean()
    of_generator = (
        F.mse_loss(repaired, clean)
        + F.mse_loss(recovered, clean)
        + 2 * F.mse_loss(repaired, recovered)
        + 0.3 * F.softplus(-torch.cat([critic(repaired), critic(recovered)])).mean()
        + 0.1 * F.cross_entropy(Source()(repaired), labels)
        + 0.5
        * F.kl_div(
            Source()(repaired).log_softmax(dim=1),
            Source()(recovered).softmax(dim=1),
            reduction="batchmean",
        )
    )
    assert len(optimisers) == 2
    assert equal(optimisers[0], gradients(of_critic, list(critic.parameters())))
    assert equal(optimisers[1], gradients(of_generator, list(weak.parameters())))


def test_iso_gan_attacks_grey_images_in_a_ball_of_0_3(
    monkeypatch: pytest.MonkeyPatch, optimisers: list[list[Tensor | None]]
) -> None:
    radii = []

    def batch(kind: str, source: nn.Module, clean: Tensor, labels: Tensor, eps: float) -> Tensor:
        radii.append((kind, eps))
        return clean

    monkeypatch.setattr(iso_gan, "adversarial_batch", batch)
    for shape in (SHAPE, (3, 32, 32)):
        x = torch.rand(2, *shape)
        split = TensorSplit(x, torch.tensor([0, 1]))
        defense = IsoGan(IsoGanConfig(min_steps=0, batch_size=2), shape, 3)
        defense.fit(TrainingData(split, split, shape, 3, torch.device("cpu")), Source(), generator())
    assert radii == [("fgsm", 0.3), ("fgsm", 0.15)]


# --- MagNet --------------------------------------------------------------------------------------------


def test_magnet_learns_to_remove_its_noise(
    monkeypatch: pytest.MonkeyPatch, optimisers: list[list[Tensor | None]]
) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    defense = Magnet(MagnetConfig(min_steps=0, epochs=1, batch_size=3, noise=0.2), SHAPE, 3)
    defense.autoencoder = nn.Sequential(nn.Conv2d(1, 1, 1))
    defense.fit(data(0.1, 0.5, 0.9), Source(), generator())
    clean, noisy = images(0.1, 0.5, 0.9), images(0.3, 0.7, 1.0)
    loss = (defense.autoencoder(noisy) - clean).square().mean()
    (found,) = optimisers
    assert equal(found, gradients(loss, list(defense.parameters())))


# --- PuVAE ---------------------------------------------------------------------------------------------


class Statistics(nn.Module):
    """An encoder whose mean and standard deviation are its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.std = nn.Parameter(torch.tensor([0.3, 2.0]))

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.expand(len(x), -1), self.std.expand(len(x), -1)


class Grey(nn.Module):
    """A decoder that makes grey images of the weighted sum of the latents."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.4, -0.2]))

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return (latents @ self.weight).sigmoid()[:, None, None, None].expand(-1, *SHAPE)


def test_the_loss_of_puvae_by_its_gradient(
    monkeypatch: pytest.MonkeyPatch, optimisers: list[list[Tensor | None]]
) -> None:
    """Reconstruction summed over pixels, divergence averaged over latents, cross-entropy of the source."""
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, 0.7))
    config = PuVaeConfig(latent=2, min_steps=0, epochs=1, batch_size=4, clip=None, check_every=0)
    defense = PuVae(config, SHAPE, 3)
    defense.encoder, defense.decoder = Statistics(), Grey()  # type: ignore[assignment]
    defense.fit(data(0.2, 0.2, 0.6, 0.6), Source(), generator())

    mean, std, weight = defense.encoder.mean, defense.encoder.std, defense.decoder.weight
    assert isinstance(weight, Tensor)
    grey = (weight @ (mean + 0.7 * std)).sigmoid()
    reconstruction = torch.stack([-x * grey.log() - (1 - x) * (1 - grey).log() for x in (0.2, 0.6)])
    divergence = 0.5 * (mean**2 + std**2 - (std**2).log() - 1).mean()
    scores = grey * torch.tensor([1.0, 2.0, -3.0])
    loss = 0.01 * 784 * reconstruction.mean() + 0.1 * divergence - 10 * scores.log_softmax(dim=0)[1]
    (found,) = optimisers
    assert equal(found, gradients(loss, [mean, std, weight]))  # type: ignore[list-item]


def test_the_gradients_of_puvae_are_clipped(optimisers: list[list[Tensor | None]]) -> None:
    config = PuVaeConfig(latent=2, min_steps=0, epochs=1, batch_size=4, clip=0.25, check_every=0)
    defense = PuVae(config, SHAPE, 3)
    defense.encoder, defense.decoder = Statistics(), Grey()  # type: ignore[assignment]
    defense.fit(data(0.2, 0.2, 0.6, 0.6), Source(), generator())
    (found,) = optimisers
    assert torch.cat([g for g in found if g is not None]).norm().item() == pytest.approx(0.25, rel=1e-4)


def puvae() -> PuVae:
    torch.manual_seed(0)
    return PuVae(PuVaeConfig(latent=4, noise=0.5, samples=2), SHAPE, 3).eval().requires_grad_(False)


def test_the_surrogates_of_puvae_weight_and_select_by_distance() -> None:
    defense, x = puvae(), torch.rand(3, *SHAPE, generator=generator())
    soft = defense.surrogate("soft-selection", Source(), Noise(0, range(3))).scores(x)
    selection = defense.surrogate("selection", Source(), Noise(0, range(3))).scores(x)
    mean, std = defense.encoder.for_every_label(x)
    normal = Noise(0, range(3)).normal_like(torch.empty(3, 2, *mean.shape[1:]))
    for row in range(3):
        latents = (mean[row] + 0.5 * std[row] * normal[row]).flatten(0, 1)
        decoded = defense.decoder(latents, torch.arange(6) % 3)
        distances = (decoded - x[row]).square().flatten(1).mean(dim=1)
        weights = (-distances / (0.1 * distances.std())).softmax(dim=0)
        average = (weights[:, None, None, None] * decoded).sum(dim=0, keepdim=True)
        assert torch.allclose(soft[row], Source()(average)[0], atol=1e-5)
        nearest = torch.minimum(distances[:3], distances[3:])
        assert torch.allclose(selection[row], -nearest / nearest.std(), atol=1e-4)


# --- Defense-GAN ---------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A generator of grey images, whatever the latents are."""

    def __init__(self, brightness: float) -> None:
        super().__init__()
        self.brightness = nn.Parameter(torch.tensor(brightness))

    def forward(self, z: Tensor) -> Tensor:
        return self.brightness.expand(len(z), *SHAPE) + 0 * z.sum()


def fitted(
    monkeypatch: pytest.MonkeyPatch, critic: nn.Module, brightness: float, **config: Any
) -> DefenseGan:
    monkeypatch.setattr(defense_gan, "build_convolutions", lambda channels, outputs: critic)
    settings = {"latent": 2, "steps": 1, "critic_steps": 1, "batch_size": 3, "check_every": 0}
    defense = DefenseGan(DefenseGanConfig(**(settings | {"encoder_steps": 0} | config)), SHAPE, 3)
    defense.generator = Constant(brightness)
    defense.fit(data(0.5, 0.6, 0.7), Source(), generator())
    return defense


@pytest.mark.parametrize("penalty", [0.0, 10.0])
def test_the_losses_of_defense_gan_by_their_gradients(
    monkeypatch: pytest.MonkeyPatch, optimisers: list[list[Tensor | None]], penalty: float
) -> None:
    """D separates real from fake images, with a slope of 1. G makes images that D takes for real."""
    critic = Score(60.0)
    fitted(monkeypatch, critic, 0.2, penalty=penalty)
    length = 60 / math.sqrt(784)  # of the gradient of the critic, a mean over 784 pixels
    of_penalty = penalty * 2 * (length - 1) / math.sqrt(784)
    (slope, offset), (upwards,) = optimisers
    assert slope is not None
    assert offset is not None
    assert upwards is not None
    assert slope.item() == pytest.approx(of_penalty - (0.6 - 0.2), rel=1e-4)
    assert offset.item() == pytest.approx(0.0, abs=1e-6)
    assert upwards.item() == pytest.approx(-60.0)


def test_the_critic_of_defense_gan_takes_several_steps_for_each_of_the_generator(
    monkeypatch: pytest.MonkeyPatch, optimisers: list[list[Tensor | None]]
) -> None:
    fitted(monkeypatch, Score(60.0), 0.2, steps=2, critic_steps=3)
    assert [len(step) for step in optimisers] == [2, 2, 2, 1, 2, 2, 2, 1]


@pytest.mark.parametrize("average", [0.99, 0.15, 0.0])
def test_the_mean_of_the_weights_of_defense_gan_starts_with_a_short_memory(
    monkeypatch: pytest.MonkeyPatch, average: float
) -> None:
    """After k steps the mean moves by 1 − min(decay, k / (k + 10)) towards the weights.

    Adam moves a weight with a steady gradient by its learning rate at every step.
    """
    fits = fitted(monkeypatch, Score(60.0), 0.2, steps=4, average=average, lr=0.1, penalty=0.0)
    mean = 0.2
    for step in range(1, 5):
        mean += (1 - min(average, step / (step + 10))) * (0.2 + 0.1 * step - mean)
    assert fits.generator.brightness.item() == pytest.approx(mean, abs=1e-3)


def test_the_encoder_of_defense_gan_learns_latents_of_the_image_near_the_prior(
    monkeypatch: pytest.MonkeyPatch, optimisers: list[list[Tensor | None]]
) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([2.0, -1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).mean(dim=1, keepdim=True) * self.weight

    class FirstLatent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, z: Tensor) -> Tensor:
            return (self.scale * z[:, 0])[:, None, None, None].expand(-1, *SHAPE)

    config = DefenseGanConfig(latent=2, encoder_steps=1)
    defense = DefenseGan(config, SHAPE, 3)
    defense.encoder, defense.generator = Encoder(), FirstLatent()  # type: ignore[assignment]
    defense._fit_encoder(data(0.2, 0.6), generator())
    weight = defense.encoder.weight
    assert isinstance(weight, nn.Parameter)
    latents = torch.tensor([[0.2], [0.6]]) * weight
    error = (0.5 * latents[:, 0] - torch.tensor([0.2, 0.6])).square().mean()
    (found,) = optimisers
    assert equal(found, gradients(error + 1e-4 * latents.square().mean(), [weight]))
    assert defense.generator.scale.grad is None
    assert defense.generator.scale.requires_grad


# --- the end of a training -------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Stands for a training loop."""

    reported: dict[str, float] = field(default_factory=dict)
    stopped: bool = False

    def report(self, **values: float) -> None:
        self.reported = values

    def stop(self) -> None:
        self.stopped = True


class Bright(nn.Module):
    """Classifies images above one half as class 1, others as class 0; the gradient points upwards."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


@pytest.mark.parametrize(
    ("darkened", "lowered", "added", "fgsm", "stops"),
    [
        (0, 0, 0.0, 0.0, True),
        (1, 0, 0.125, 0.0, True),
        (2, 0, 0.25, 0.0, False),
        (0, 2, 0.0, 0.25, True),
        (0, 3, 0.0, 0.375, False),
        (1, 2, 0.125, 0.25, True),
    ],
)
def test_a_training_ends_when_both_errors_are_low_enough(
    darkened: int, lowered: int, added: float, fgsm: float, stops: bool
) -> None:
    """The purifier makes some clean and some attacked images dark, so that they are misclassified."""
    validation = images(*[0.7] * 8, *[0.1] * 8)  # the second half is not looked at
    of = data(0.5, validation=validation)

    def purify(x: Tensor) -> Tensor:
        attacked = bool(x.amax() < 0.69)
        count = lowered if attacked else darkened
        return torch.where((torch.arange(len(x)) < count)[:, None, None, None], 0.0, 0.9).expand_as(x)

    loop, plugin = Recorder(), nn.Linear(1, 1).train()
    StopCriterion(0.125, 0.25, images=8).check(loop, plugin, purify, of, Bright())  # type: ignore[arg-type]
    assert loop.reported == pytest.approx({"added_error": added, "fgsm_error": fgsm})
    assert loop.stopped == stops
    assert plugin.training


def test_the_training_images_of_pgd_take_ten_steps() -> None:
    x, labels = images(0.7), torch.tensor([1])
    for kind in ("fgsm", "pgd"):
        found = adversarial_batch(kind, Bright(), x, labels, 0.1)
        assert (x - found).amax().item() == pytest.approx(0.1)
