"""The contract of every registered attack with every backend: range, ball, options, unusual inputs."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from benchmark.api.attack import Attack
from benchmark.api.noise import Noise
from benchmark.plugins.registry import default_registry
from tests.attacks.trained_classifiers import PixelsAsLatents, Victim, dense

CHEAP: dict[str, dict[str, Any]] = {
    "fgsm": {"eps": 0.2},
    "bim": {"eps": 0.2, "steps": 4},
    "pgd": {"eps": 0.2, "steps": 4},
    "mim": {"eps": 0.2, "steps": 4},
    "apgd-ce": {"eps": 0.2, "steps": 5},
    "apgd-dlr-targeted": {"eps": 0.2, "steps": 5, "classes": 2},
    "deepfool": {"steps": 10},
    "cw-l2": {"steps": 30, "search_steps": 3, "lr": 0.05},
    "cw-linf": {"steps": 30, "lr": 0.02},
    "cw-l0": {"steps": 20, "search_steps": 2},
    "l-bfgs": {"steps": 10, "search_steps": 3},
    "jsma": {"gamma": 0.1},
    "on-manifold": {"eps": 0.2, "steps": 8, "kappa": 0.0},
    "advgan": {"eps": 0.2, "min_steps": 0, "epochs": 1, "batch_size": 32},
    "square": {"eps": 0.2, "steps": 20},
    "hopskipjump": {"steps": 3, "first_queries": 20, "most_queries": 40},
    "noise": {},
    "uniform-noise": {"eps": 0.2},
}
"""Settings that make each attack fast. A new attack needs an entry."""

CHEAP_FOR_BACKEND: dict[tuple[str, str], dict[str, Any]] = {
    # ART takes one image at a time
    ("cw-l2", "art"): {"steps": 12, "search_steps": 2, "lr": 0.1},
    ("cw-linf", "art"): {"steps": 8, "lr": 0.1, "decrease": 0.7},
    # with few steps its changes are so small that different settings give equal images
    ("cw-l0", "art"): {"steps": 10, "lr": 0.5, "initial_c": 1.0},
}

OTHER_VALUES: dict[str, Any] = {
    "eps": 0.1,
    "distance": {"linf": "l2", "l2": "linf"},
    "targeted": "random",
    "target_class": 3,
    "steps": 2,
    "alpha": 0.013,
    "decay": 0.1,
    "loss": {"ce": "margin"},
    "spread": 2.0,
    "restarts": 3,
    "random_start": False,
    "classes": 1,
    "candidates": 2,
    "overshoot": 0.5,
    "kappa": 1.0,
    "lr": 0.11,
    "initial_c": 2.5,
    "largest_c": 40.0,
    "search_steps": 1,
    "abort_early": False,
    "box": "tanh",
    "decrease": 0.5,
    "drop": 0.5,
    "theta": -1.0,
    "gamma": 0.01,
    "scores": "logits",
    "adv_weight": 1.0,
    "beta": 50.0,
    "c": 100.0,
    "epochs": 2,
    "min_steps": 30,
    "batch_size": 64,
    "p_init": 0.1,
    "first_queries": 5,
    "most_queries": 10,
    "variance": 0.2,
}
"""For each option a value other than the default; AdvGAN's `alpha` is the weight of a loss, see below."""

REQUIRED_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("advgan", "alpha"): {"alpha": 30.0},
    ("advgan", "c"): {"beta": 50.0},
    ("advgan", "min_steps"): {"batch_size": 128},
    # so many steps that some make no progress
    ("cw-l2", "abort_early"): {"steps": 200, "lr": 0.1},
    # in a ball in which the first run does not succeed for all images
    ("apgd-ce", "restarts"): {"eps": 0.02},
    # starts so near to the image, and so few steps, that some restarts are better than the first
    ("on-manifold", "restarts"): {"spread": 0.1, "steps": 3},
    ("on-manifold", "spread"): {"spread": 0.1, "steps": 3},
    # a first constant that is too small, so that later ones are needed
    ("cw-l0", "largest_c"): {"initial_c": 0.01, "largest_c": 0.01},
    ("cw-l0", "initial_c"): {"initial_c": 0.01},
}
"""Other settings that an option needs to have an effect."""

REGISTRY = default_registry()

IMAGES = 6
"""Number of attacked images; most options have an effect on a few images already."""

MORE_IMAGES = {
    ("apgd-ce", "restarts"): 20,
    ("deepfool", "candidates"): 20,
    ("on-manifold", "restarts"): 20,
    ("on-manifold", "spread"): 20,
}
"""Options that have an effect on few images only."""


def _plugin(name: str) -> type[Attack[Any]]:
    return REGISTRY.get("attack", name).load()  # type: ignore[return-value]


def backends(name: str) -> tuple[str, ...]:
    field = _plugin(name).config_type().model_fields.get("backend")
    return typing.get_args(field.annotation) if field else ("native",)


def every_backend() -> Iterator[Any]:
    for name in REGISTRY.names("attack"):
        for backend in backends(name):
            yield pytest.param(name, backend, id=f"{name}-{backend}")


def every_option() -> Iterator[Any]:
    for name in REGISTRY.names("attack"):
        options = [option for option in _plugin(name).config_type().model_fields if option != "backend"]
        for backend in backends(name):
            for option in options:
                yield pytest.param(name, backend, option, id=f"{name}-{backend}-{option}")


def is_unsupported(name: str, backend: str, option: str) -> bool:
    """Whether the plugin states that this backend has no such option."""
    return option in getattr(_plugin(name).config_type(), "unsupported_options", {}).get(backend, ())


def settings_for(name: str, backend: str) -> dict[str, Any]:
    """The cheap settings that this backend supports."""
    config = _plugin(name).config_type()
    settings = {key: value for key, value in CHEAP[name].items() if not is_unsupported(name, backend, key)}
    settings |= CHEAP_FOR_BACKEND.get((name, backend), {})
    return settings | ({"backend": backend} if "backend" in config.model_fields else {})


@pytest.fixture(scope="module")
def victim() -> Victim:
    return dense()


def build(name: str, settings: dict[str, Any]) -> Attack[Any]:
    plugin = _plugin(name)
    return plugin(plugin.config_type()(**settings))


@cache
def _crafted(name: str, settings: tuple[tuple[str, Any], ...], count: int) -> Tensor:
    victim = dense()
    before = victim.x.clone()
    images = victim.craft(build(name, dict(settings)), count, 4)
    assert torch.equal(victim.x, before), "the attack wrote into its input"
    return images


def images_with(name: str, settings: dict[str, Any], count: int = IMAGES) -> Tensor:
    """The images of the attack for the first images; cached for all tests with these settings."""
    return _crafted(name, tuple(sorted(settings.items())), count)


@pytest.mark.parametrize(("name", "backend"), every_backend())
def test_images_are_in_the_box_and_the_ball_and_the_input_is_unchanged(
    victim: Victim, name: str, backend: str
) -> None:
    settings = settings_for(name, backend)
    images, attack = images_with(name, settings), build(name, settings)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    if attack.eps is not None:
        assert (images - victim.x[:IMAGES]).abs().max() <= attack.eps + 1e-6
    assert not torch.equal(images, victim.x[:IMAGES])


@pytest.mark.parametrize(("name", "backend"), every_backend())
def test_a_repeated_call_gives_the_same_images(victim: Victim, name: str, backend: str) -> None:
    settings = settings_for(name, backend)
    repeated = victim.craft(build(name, settings), IMAGES, 4)
    assert torch.equal(repeated, images_with(name, settings))


@pytest.mark.parametrize(("name", "backend"), every_backend())
def test_an_empty_ball_changes_nothing(victim: Victim, name: str, backend: str) -> None:
    if "eps" not in _plugin(name).config_type().model_fields:
        pytest.skip("no ball")
    images = victim.craft(build(name, settings_for(name, backend) | {"eps": 0.0}), 5, 4)
    assert torch.allclose(images, victim.x[:5], atol=1e-7)


@pytest.mark.parametrize(("name", "backend"), every_backend())
def test_a_batch_of_one_works(victim: Victim, name: str, backend: str) -> None:
    assert victim.craft(build(name, settings_for(name, backend)), 1, 4).shape == (1, 1, 28, 28)
    if "targeted" in _plugin(name).config_type().model_fields and not is_unsupported(
        name, backend, "targeted"
    ):
        targeted = build(name, settings_for(name, backend) | {"targeted": "next"})
        assert victim.craft(targeted, 1, 4).shape == (1, 1, 28, 28)


@pytest.mark.parametrize(("name", "backend"), every_backend())
def test_misclassified_images_stay_misclassified(victim: Victim, name: str, backend: str) -> None:
    attack = build(name, settings_for(name, backend))
    if attack.uses == "nothing" or attack.trainable:
        pytest.skip("does not use the surface")
    labels = (victim.labels + 1) % 10
    misclassified = Victim(victim.surface, victim.x[:6], labels[:6])
    assert misclassified.error(misclassified.x) == 1
    assert misclassified.error(misclassified.craft(attack)) == 1


@pytest.mark.parametrize(("name", "backend"), every_backend())
def test_colour_images_and_a_hundred_classes_work(name: str, backend: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 100))
    surface = PixelsAsLatents(model.requires_grad_(False), 100, (3, 32, 32)).eval()
    x = torch.rand(4, 3, 32, 32)
    labels = surface(x).argmax(dim=1)
    attack = build(name, settings_for(name, backend))
    if attack.trainable:
        attack.build((3, 32, 32), 100)
        attack.eval()  # type: ignore[attr-defined]
    images = attack.craft(surface, x, labels, Noise(0, range(4)))
    assert images.shape == x.shape
    if attack.uses == "gradients" and not attack.trainable:
        assert (surface(images).argmax(dim=1) != labels).float().mean() > 0.5


@pytest.mark.parametrize(("name", "backend", "option"), every_option())
def test_every_option_has_an_effect_or_is_refused(name: str, backend: str, option: str) -> None:
    base = settings_for(name, backend) | REQUIRED_SETTINGS.get((name, option), {})
    if option == "alpha" and name == "advgan":
        base, other = settings_for(name, backend), REQUIRED_SETTINGS[name, option]["alpha"]
    else:
        other = OTHER_VALUES[option]
        if isinstance(other, dict):
            default = _plugin(name).config_type().model_fields[option].default
            other = other[base.get(option, default)]
    if is_unsupported(name, backend, option):
        with pytest.raises(ValidationError, match="no such option"):
            build(name, base | {option: other})
        return
    count = MORE_IMAGES.get((name, option), IMAGES)
    plain, changed = (images_with(name, base | extra, count) for extra in ({}, {option: other}))
    assert not torch.equal(plain, changed)


@pytest.mark.parametrize(("name", "backend"), every_backend())
def test_targeted_images_are_classified_as_the_target(victim: Victim, name: str, backend: str) -> None:
    if "targeted" not in _plugin(name).config_type().model_fields or is_unsupported(
        name, backend, "targeted"
    ):
        pytest.skip("has no targets")
    settings = settings_for(name, backend) | {"targeted": "next"}
    settings |= {"eps": 0.5} if "eps" in settings else {}
    settings |= {"steps": 30} if "steps" in settings else {}
    attack = build(name, settings)
    assert attack.targeted
    predicted = victim.surface(victim.craft(attack, 12)).argmax(dim=1)
    assert (predicted == (victim.labels[:12] + 1) % 10).float().mean() > (0.3 if name == "fgsm" else 0.5)
