"""Purifiers compared with known results: parameter counts, reference loops, constructed networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from benchmark.defenses.ape_gan import ApeGan, ApeGanConfig
from benchmark.defenses.bit_depth import BitDepth, BitDepthConfig
from benchmark.defenses.defense_gan import DefenseGan, DefenseGanConfig, _gradient_penalty, _Projection
from benchmark.defenses.gaussian_noise import GaussianNoise, GaussianNoiseConfig
from benchmark.defenses.iso_gan import IsoGan, IsoGanConfig
from benchmark.defenses.magnet import Magnet, MagnetConfig
from benchmark.defenses.nets.ape_gan_networks import build_discriminator, build_generator
from benchmark.defenses.nets.defense_gan_networks import LeakyReLU, build_convolutions, initialise
from benchmark.defenses.nets.training_steps import adversarial_batch
from benchmark.defenses.puvae import PuVae, PuVaeConfig
from benchmark.defenses.tv_min import TvMin, TvMinConfig, _variation_gradient
from torch import Tensor, nn

from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.plugins.registry import default_registry

GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build(name: str, shape: tuple[int, int, int] = GREY, **config: Any) -> Defense[Any]:
    plugin = default_registry().get("defense", name).load()
    defense = plugin(plugin.config_type()(**config), shape, 10)
    assert isinstance(defense, Defense)
    return defense.eval().requires_grad_(False)


# --- sizes of networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "count"), [(GREY, 149_377), (COLOUR, 151_683)])
def test_the_small_generator_of_ape_gan_has_the_papers_size(shape: tuple[int, int, int], count: int) -> None:
    assert parameters(build_generator(shape)) == count
    assert parameters(IsoGan(IsoGanConfig(), shape, 10)) == count


def test_the_large_generator_of_ape_gan_keeps_the_size_of_its_images() -> None:
    for side in (128, 256):
        x = torch.rand(2, 3, side, side)
        purified = build("ape-gan", (3, side, side)).purify(x, Noise(0, range(2)))
        assert purified.shape == x.shape
        assert build_discriminator((3, side, side))(x).shape == (2, 1)


def test_the_generators_of_defense_gan_have_the_known_sizes() -> None:
    assert parameters(DefenseGan(DefenseGanConfig(), GREY, 10).generator) == 1_554_177
    assert parameters(DefenseGan(DefenseGanConfig(), COLOUR, 10).generator) == 3_828_739
    for shape in (GREY, COLOUR):
        dcgan = DefenseGan(DefenseGanConfig(generator="dcgan"), shape, 10).generator.eval()
        assert dcgan(torch.randn(2, 128)).shape == (2, *shape)


def test_the_networks_of_puvae_have_the_known_sizes() -> None:
    puvae = PuVae(PuVaeConfig(latent=32), GREY, 10)
    assert parameters(puvae.decoder) == 925_569
    assert parameters(puvae.encoder) == 26_918_592
    assert PuVaeConfig().on("fashion-mnist").latent == 100
    assert PuVaeConfig().on("cifar10").latent == 256
    assert PuVaeConfig(latent=7).on("fashion-mnist").latent == 7


@pytest.mark.parametrize("name", ["ape-gan", "iso-gan", "defense-gan", "puvae"])
def test_an_unsupported_image_size_is_refused_and_named(name: str) -> None:
    with pytest.raises(ValueError, match="30×30"):
        build(name, (1, 30, 30))


# --- APE-GAN and the isomorphic-loss GAN -----------------------------------------------------------


def test_the_official_code_uses_the_root_of_the_mse_and_tanh() -> None:
    defense = ApeGan(ApeGanConfig(official_code=True), GREY, 10)
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    clean, adversarial = torch.rand(4, 1, 28, 28), torch.rand(4, 1, 28, 28)
    restored = defense.generator(adversarial)
    root = (2 * (restored - clean)).square().mean().sqrt()
    adversarial_loss = -torch.sigmoid(discriminator(restored)).log().mean()
    loss = defense._generator_loss(discriminator, clean, adversarial)
    assert loss.item() == pytest.approx((0.9 * root + 0.02 * adversarial_loss).item(), rel=1e-4)
    defense.generator[-2].bias.data.fill_(100.0)
    assert defense.generator(adversarial).min().item() == pytest.approx(1.0)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_training_images_are_in_the_ball_and_increase_the_loss(attack: str) -> None:
    source = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    x, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    found = adversarial_batch(attack, source, x, labels, 0.1)
    assert (found - x).abs().max().item() <= 0.1 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    loss = nn.functional.cross_entropy
    assert loss(source(found), labels) > loss(source(x), labels) + 0.1


def iso_losses(**weights: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    defense = IsoGan(IsoGanConfig(**weights), GREY, 10)
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    source = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    clean = torch.rand(4, 1, 28, 28)
    repaired = torch.rand(4, 1, 28, 28).requires_grad_()
    recovered = torch.rand(4, 1, 28, 28).requires_grad_()
    losses = defense._losses(discriminator, source, clean, torch.arange(4), repaired, recovered)
    return losses, repaired, recovered


def test_the_isomorphic_loss_has_gradients_of_both_images_unless_one_is_detached() -> None:
    losses, repaired, recovered = iso_losses(iso_weight=2.0)
    assert losses["iso"].item() == pytest.approx(2 * (repaired - recovered).square().mean().item())
    losses["iso"].backward()
    assert repaired.grad is not None
    assert recovered.grad is not None
    losses, repaired, recovered = iso_losses(detach_clean=True)
    losses["iso"].backward()
    assert repaired.grad is not None
    assert recovered.grad is None


def test_the_label_losses_of_the_clean_image_and_of_the_pair_are_off_by_default() -> None:
    assert iso_losses()[0].keys() == {"repair", "recovery", "iso", "gan", "label"}
    all_losses = iso_losses(clean_label_weight=0.1, pair_label_weight=0.1)[0]
    assert all_losses.keys() == {"repair", "recovery", "iso", "gan", "label", "clean_label", "pair_label"}
    assert all_losses["pair_label"].item() > 0
    assert "gan" not in iso_losses(gan_weight=0.0)[0]


# --- Defense-GAN -----------------------------------------------------------------------------------


class Linear(nn.Module):
    """A linear generator, whose best latents are given by an orthogonal projection."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        basis, _ = torch.linalg.qr(torch.randn(784, latent, generator=torch.Generator().manual_seed(0)))
        self.basis = nn.Parameter(10 * basis)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.basis.T).reshape(-1, 1, 28, 28)


def projected(x: Tensor, restarts: int = 3, **config: Any) -> tuple[Tensor, Linear, Tensor]:
    generator = Linear(5)
    starts = torch.randn(len(x), restarts, 5, generator=torch.Generator().manual_seed(1))
    settings = DefenseGanConfig(latent=5, **config)
    return _Projection(generator, settings, x, starts, settings.iterations).run(), generator, starts


def test_the_projection_finds_the_nearest_image_of_a_linear_generator() -> None:
    x = torch.rand(4, 1, 28, 28)
    found, generator, _ = projected(x, iterations=400, rate=1.0)
    best = x.flatten(1) @ generator.basis / 100
    assert torch.allclose(found, best, atol=1e-4)


def test_the_projection_is_gradient_descent_with_momentum_and_a_lower_final_rate() -> None:
    x = torch.rand(2, 1, 28, 28)
    iterations = 12
    found, generator, starts = projected(x, restarts=1, iterations=iterations, rate=0.5)
    z = starts[:, 0].clone().requires_grad_()
    reference = torch.optim.SGD([z], lr=0.5, momentum=0.7)
    for step in range(iterations):
        if step == math.ceil(0.8 * iterations):
            reference.param_groups[0]["lr"] = 0.05
        loss = (generator(z) - x).square().flatten(1).mean(dim=1).sum()
        reference.zero_grad()
        loss.backward()
        reference.step()
    assert torch.allclose(found, z.detach(), atol=1e-5)


def test_each_image_keeps_its_best_restart() -> None:
    x = torch.rand(3, 1, 28, 28)
    batch, generator, starts = projected(x, restarts=4, iterations=3, rate=0.1)
    settings = DefenseGanConfig(latent=5, iterations=3, rate=0.1)
    alone = [_Projection(generator, settings, x, starts[:, r : r + 1], 3).run() for r in range(4)]
    losses = torch.stack([(generator(z) - x).square().flatten(1).mean(dim=1) for z in alone])
    for image, restart in enumerate(losses.argmin(dim=0)):
        assert torch.allclose(batch[image], alone[int(restart)][image], atol=1e-5)


def test_short_cuts_cost_less_and_give_almost_the_same_error() -> None:
    x = torch.rand(6, 1, 28, 28)
    rows: list[int] = []
    exact, generator, _ = projected(x, restarts=8, iterations=100, rate=1.0)
    generator_cost = 8 * 6 * 100
    generator.register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    starts = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(1))
    settings = DefenseGanConfig(latent=5, rate=1.0, drop_after=5, keep=1, plateau=0.001)
    quick = _Projection(generator, settings, x, starts, 100).run()
    assert sum(rows) < generator_cost / 5
    error = [(generator(z) - x).square().mean().item() for z in (quick, exact)]
    assert error[0] <= 1.02 * error[1]


def test_the_gradient_penalty_uses_the_norm_of_a_whole_image() -> None:
    critic = nn.Sequential(nn.Flatten(), nn.Linear(784, 1, bias=False))
    norm = critic[1].weight.norm().item()
    penalty = _gradient_penalty(critic, torch.rand(5, 1, 28, 28), torch.rand(5, 1, 28, 28))
    assert penalty.item() == pytest.approx((norm - 1) ** 2, rel=1e-4)


def test_the_critic_has_the_derivatives_of_torchs_leaky_relu() -> None:
    critic = build_convolutions(1, 1).apply(initialise).double()
    layers = [nn.LeakyReLU(0.2) if isinstance(layer, LeakyReLU) else layer for layer in critic]
    reference = nn.Sequential(*layers)  # shares the weights
    assert any(isinstance(layer, nn.LeakyReLU) for layer in layers)
    images = torch.rand(8, 1, 28, 28).double()
    real, fake = images.chunk(2)
    found, expected = ([], [])
    for network, gradients in ((critic, found), (reference, expected)):
        torch.manual_seed(0)  # the same points between real and generated images
        penalty = _gradient_penalty(network, real, fake)
        loss = penalty - network(real).mean()
        gradients += torch.autograd.grad(loss, list(critic.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_in_attacks_a_projection_continues_from_the_last_one() -> None:
    config = DefenseGanConfig(restarts=3, iterations=30, attack_iterations=2)
    cheap = DefenseGan.in_attack(config)
    assert (cheap.restarts, cheap.warm_iterations) == (1, 2)
    defense = DefenseGan(cheap, GREY, 10).eval().requires_grad_(False)
    x = torch.rand(2, 1, 28, 28)

    def error() -> float:
        return (defense.purify(x, Noise(0, range(2))) - x).square().mean().item()

    first, second = error(), error()
    assert second <= first
    defense.forget()
    assert error() == pytest.approx(first)


# --- PuVAE -----------------------------------------------------------------------------------------


def test_shared_features_give_the_same_statistics_for_every_label() -> None:
    puvae = PuVae(PuVaeConfig(latent=4), GREY, 10).eval()
    x = torch.rand(3, 1, 28, 28)
    mean, std = puvae.encoder.for_every_label(x)
    for label in range(10):
        alone = puvae.encoder(x, torch.full((3,), label))
        assert torch.allclose(mean[:, label], alone[0], atol=1e-5)
        assert torch.allclose(std[:, label], alone[1], atol=1e-5)


def test_puvae_returns_the_nearest_reconstruction_and_its_label() -> None:
    puvae = PuVae(PuVaeConfig(latent=4, noise=0.0), GREY, 10).eval().requires_grad_(False)
    for layer in puvae.decoder.modules():
        if isinstance(layer, nn.ConvTranspose2d | nn.Linear):
            layer.weight.mul_(4)  # makes reconstructions differ by label
    x = torch.rand(5, 1, 28, 28)
    purified, labels = puvae.purify_and_decide(x, Noise(0, range(5)))
    mean, _ = puvae.encoder.for_every_label(x)
    for i in range(5):
        by_label = puvae.decoder(mean[i], torch.arange(10))
        distances = (by_label - x[i]).square().flatten(1).mean(dim=1)
        assert labels[i] == distances.argmin()
        assert torch.allclose(purified[i], by_label[labels[i]], atol=1e-5)


def test_more_samples_give_a_smaller_error() -> None:
    x = torch.rand(8, 1, 28, 28)
    torch.manual_seed(0)
    few = PuVae(PuVaeConfig(latent=4, noise=1.0), GREY, 10).eval().requires_grad_(False)
    many = PuVae(PuVaeConfig(latent=4, noise=1.0, samples=16), GREY, 10).eval().requires_grad_(False)
    many.load_state_dict(few.state_dict())
    errors = [(d.purify(x, Noise(3, range(8))) - x).square().mean().item() for d in (few, many)]
    assert errors[1] < errors[0]


# --- transforms ------------------------------------------------------------------------------------


def test_bit_depth_rounds_to_its_levels() -> None:
    x = torch.tensor([0.0, 0.2, 0.49, 0.51, 1.0]).reshape(1, 1, 1, 5)
    assert BitDepth(BitDepthConfig(bits=1), GREY, 10).purify(x, Noise(0, [0])).tolist() == [
        [[[0, 0, 0, 1, 1]]]
    ]
    third = BitDepth(BitDepthConfig(bits=2), GREY, 10).purify(x, Noise(0, [0])).flatten()
    assert torch.allclose(3 * third, torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0]))


def test_gaussian_noise_has_its_standard_deviation() -> None:
    x = torch.full((20, 1, 28, 28), 0.5)
    noisy = GaussianNoise(GaussianNoiseConfig(std=0.05), GREY, 10).purify(x, Noise(0, range(20)))
    assert (noisy - x).std().item() == pytest.approx(0.05, rel=0.03)


def test_the_gradient_of_the_total_variation_is_correct() -> None:
    z = torch.rand(2, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    right = nn.functional.pad(z[..., :, 1:] - z[..., :, :-1], (0, 1))
    down = nn.functional.pad(z[..., 1:, :] - z[..., :-1, :], (0, 0, 0, 1))
    (expected,) = torch.autograd.grad((right**2 + down**2 + 0.1**2).sqrt().sum(), z)
    assert torch.allclose(_variation_gradient(z.detach(), 0.1), expected)


def test_tv_min_removes_noise_and_keeps_flat_images() -> None:
    flat = torch.full((4, 1, 28, 28), 0.4)
    square = flat.clone()
    square[:, :, 8:20, 8:20] = 0.8
    noisy = (square + 0.15 * torch.randn(4, 1, 28, 28)).clamp(0, 1)
    defense = TvMin(TvMinConfig(weight=0.1, iterations=100), GREY, 10)
    noise = lambda: Noise(0, range(4))  # noqa: E731
    assert torch.allclose(defense.purify(flat, noise()), flat, atol=1e-3)
    before, after = ((images - square).square().mean() for images in (noisy, defense.purify(noisy, noise())))
    assert after < before / 3


def test_magnet_pools_for_grey_images_only() -> None:
    def pools(shape: tuple[int, int, int]) -> bool:
        layers = Magnet(MagnetConfig(), shape, 10).autoencoder
        return any(isinstance(layer, nn.AvgPool2d) for layer in layers)

    assert pools(GREY)
    assert not pools(COLOUR)
    with pytest.raises(ValueError, match="even"):
        build("magnet", (1, 27, 27))
