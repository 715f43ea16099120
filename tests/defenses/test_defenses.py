"""The contract of every registered defense, and the networks and losses of APE-GAN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.defenses.ape_gan import ApeGan, ApeGanConfig
from benchmark.defenses.nets.ape_gan_networks import build_discriminator, build_generator
from benchmark.targets.loading.recipe import RecipeConfig
from benchmark.targets.mnist_cnn import MnistC
from torch import Tensor, nn

from benchmark.api.dataset import TrainingData
from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.datasets.digits import Digits
from benchmark.execution.purifier import PurifierModule
from benchmark.plugins.plugin import Config
from benchmark.plugins.registry import default_registry
from benchmark.storage.store import Address, Store

NAMES = default_registry().names("defense")


# Few iterations of an inner optimisation; otherwise the same computation.
QUICK: dict[str, dict[str, Any]] = {"defense-gan": {"restarts": 2, "iterations": 3}}


def make(name: str, shape: tuple[int, int, int] = (1, 28, 28)) -> Defense[Any]:
    torch.manual_seed(0)
    plugin = default_registry().get("defense", name).load()
    return plugin(plugin.config_type()(**QUICK.get(name, {})), shape, 10)  # type: ignore[return-value]


def purified(defense: Defense[Any], x: Tensor, first: int = 0) -> Tensor:
    module = PurifierModule([defense])
    module.noise = Noise(7, range(first, first + len(x)))
    return module(x)


def images(count: int = 6, channels: int = 1, size: int = 28) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_output_is_an_image_like_the_input(name: str, shape: tuple[int, int, int]) -> None:
    x = images(4, shape[0], shape[1])
    out = purified(make(name, shape), x)  # the module checks shape, dtype, range and the input
    assert out.shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_purified_in_the_same_way_alone_and_in_a_batch(name: str) -> None:
    defense, x = make(name), images()
    batch = purified(defense, x)
    alone = torch.cat([purified(defense, x[i : i + 1], first=i) for i in range(len(x))])
    assert (batch - alone).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_output_at_every_call_and_with_gradients_on_or_off(name: str) -> None:
    defense, x = make(name), images()
    first = purified(defense, x)
    with torch.no_grad():
        second = purified(defense, x)
    third = purified(defense, x.clone().requires_grad_()).detach()
    assert torch.equal(first, second)
    assert torch.equal(first, third)


@pytest.mark.parametrize("name", NAMES)
def test_stored_weights_give_the_same_output(name: str, tmp_path: Path) -> None:
    defense, x = make(name), images()
    torch.manual_seed(99)
    other = default_registry().get("defense", name).load()(defense.config, (1, 28, 28), 10)
    store, address = Store(str(tmp_path)), Address("train-defense", name, "0" * 64)
    store.put_tensors(address, defense.state_dict(), {})
    other.load_state_dict(store.get_tensors(address) or {})
    assert torch.equal(purified(defense, x), purified(other, x))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "identity"])
def test_every_defense_changes_images(name: str) -> None:
    x = images()
    assert not torch.equal(purified(make(name), x), x)


def test_identity_returns_images_and_round8_rounds_them() -> None:
    x = images()
    assert torch.equal(purified(make("identity"), x), x)
    levels = purified(make("round8"), x) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert (levels / 255 - x).abs().max() <= 0.5 / 255 + 1e-6


def test_median_agrees_with_scipy_away_from_the_border() -> None:
    from scipy.ndimage import median_filter

    x = images(1)
    expected = torch.from_numpy(median_filter(x[0, 0].numpy(), size=3))
    assert torch.equal(purified(make("median"), x)[0, 0, 1:-1, 1:-1], expected[1:-1, 1:-1])


def test_jpeg_has_a_larger_error_at_a_lower_quality() -> None:
    plugin = default_registry().get("defense", "jpeg").load()
    x = images()
    loss = {
        q: (purified(plugin(plugin.config_type()(quality=q), (1, 28, 28), 10), x) - x).square().mean()
        for q in (10, 90)
    }
    assert loss[10] > 2 * loss[90]


def test_ape_gan_has_the_networks_of_the_paper() -> None:
    shapes = {1: (1, 28, 28), 3: (3, 32, 32)}
    count = {c: sum(p.numel() for p in build_generator(shapes[c]).parameters()) for c in shapes}
    assert count == {1: 149_377, 3: 151_683}
    for size in (28, 32):
        assert build_discriminator((1, size, size))[-1].in_features == 4096


def test_ape_gan_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match=r"takes 28×28 or 32×32 images.*; got 30×30"):
        make("ape-gan", (1, 30, 30))


class Undecided(nn.Module):
    """A discriminator whose output is always a probability of one half."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 1)


class Confident(nn.Module):
    """A discriminator that classifies bright images as real, with an output of ±10."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * (x.flatten(1).mean(dim=1, keepdim=True) - 0.5)


def test_ape_gan_losses_have_the_right_values_and_signs() -> None:
    defense = ApeGan(ApeGanConfig(), (1, 28, 28), 10).eval()
    clean, adversarial = images(), images().flip(0)
    with torch.no_grad():
        content = (defense.generator(adversarial) - clean).square().mean().item()
        assert defense._generator_loss(Undecided(), clean, adversarial).item() == pytest.approx(
            0.7 * content + 0.3 * math.log(2), rel=1e-5
        )
        assert defense._discriminator_loss(Undecided(), clean, adversarial).item() == pytest.approx(
            2 * math.log(2)
        )
        bright, dark = torch.ones_like(clean), torch.zeros_like(clean)
        defense.generator = nn.Identity()
        # the loss of the discriminator is low if clean images are real and restored ones fake …
        good = defense._discriminator_loss(Confident(), bright, dark)
        assert good < 0.01 < defense._discriminator_loss(Confident(), dark, bright)
        # … and that of the generator if its images are classified as real
        assert defense._generator_loss(Confident(), bright, bright) < defense._generator_loss(
            Confident(), dark, dark
        )


@pytest.fixture(scope="module")
def digits() -> TrainingData:
    splits = Digits(Config(), Path()).splits()
    return TrainingData(splits.train, splits.validation, (1, 28, 28), 10, torch.device("cpu"))


def test_ape_gan_learns_to_restore_fgsm_images(digits: TrainingData) -> None:
    from benchmark.attacks.fgsm import Fgsm, FgsmConfig

    from benchmark.execution.surfaces import MeteredSurface

    torch.manual_seed(0)
    source = MnistC(RecipeConfig(epochs=3, min_steps=0, batch_size=32, lr=2e-3), (1, 28, 28), 10)
    source.fit(digits, torch.Generator().manual_seed(0))
    source.eval().requires_grad_(False)
    defense = ApeGan(ApeGanConfig(epochs=1, min_steps=0, batch_size=16, lr=1e-3), (1, 28, 28), 10)
    defense.fit(digits, source, torch.Generator().manual_seed(0))
    x, labels = next(digits.validation_batches(200))
    surface = MeteredSurface(source, 10, (1, 28, 28))
    adversarial = Fgsm(FgsmConfig(eps=0.3)).craft(surface, x, labels, Noise(0, range(200)))
    restored = purified(defense, adversarial)
    assert (restored - x).square().mean() < 0.75 * (adversarial - x).square().mean()
