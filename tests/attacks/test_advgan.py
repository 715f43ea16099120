"""AdvGAN: its networks, training against a surface, stored weights, and training with a defense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.attacks.advgan import AdvGan, AdvGanConfig

from tests.attacks.trained_classifiers import Victim, dense
from tests.conftest import Runner


@pytest.fixture(scope="module")
def victim() -> Victim:
    return dense()


@pytest.mark.parametrize(("channels", "parameters"), [(1, 85_985), (3, 86_275)])
def test_the_generator_has_as_many_parameters_as_the_reimplementations(
    channels: int, parameters: int
) -> None:
    attack = AdvGan(AdvGanConfig(eps=0.3))
    attack.build((channels, 28, 28), 10)
    assert sum(parameter.numel() for parameter in attack.parameters()) == parameters


SHORT: dict[str, Any] = {"epochs": 1, "min_steps": 0, "batch_size": 16}
"""Many small steps in one pass over the images: a fifth of the default number of steps."""


def test_training_makes_the_attack_stronger(victim: Victim) -> None:
    trained = victim.error(victim.craft(AdvGan(AdvGanConfig(eps=0.3, **SHORT))))
    untrained = victim.error(victim.craft(AdvGan(AdvGanConfig(eps=0.3)), train_steps=1))
    assert trained > 0.9
    assert trained > untrained + 0.2


def test_images_are_classified_as_the_target_class(victim: Victim) -> None:
    images = victim.craft(AdvGan(AdvGanConfig(eps=0.4, target_class=3, lr=3e-3, **SHORT)))
    with torch.no_grad():
        assert (victim.surface(images).argmax(dim=1) == 3).float().mean() > 0.7


def test_unsupported_sizes_and_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        AdvGan(AdvGanConfig(eps=0.3)).build((1, 30, 30), 10)
    with pytest.raises(ValueError, match="10 classes"):
        AdvGan(AdvGanConfig(eps=0.3, target_class=10)).build((1, 28, 28), 10)


def test_it_is_trained_once_for_each_surface_and_its_weights_are_stored(
    small_run: Runner, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    keys: dict[str, Any] = {
        "datasets": [{"name": "few-digits", "n": 40}],
        "defenses": ["identity", {"name": "bit-depth", "bits": 1}],
        "attacks": [{"name": "advgan", "eps": 0.4, "lr": 3e-3} | SHORT | {"epochs": 5}],
    }
    records = small_run(store=str(store), **keys)
    assert (records["status"] == "ok").all(), records["reason"].tolist()
    # on the target for all pipelines, and on each pipeline with its own gradient and with BPDA
    assert len(list((store / "train-attack" / "advgan").glob("*.json"))) == 5
    rows = records.set_index(["defense", "threat"])["error"]
    assert rows["identity", "black-box"] > 0.6
    assert rows["bit-depth", "white-box"] >= rows["bit-depth", "black-box"]
    second = small_run(store=str(store), out=tmp_path / "again", **keys)
    assert (second["key"] == records["key"]).all()
