"""AdvGAN: its nets, its training against a surface, its weights in the store, defenses in its loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.advgan import AdvGan, AdvGanConfig
from tests.conftest import Runner
from tests.victims import Victim, dense


@pytest.fixture(scope="module")
def victim() -> Victim:
    return dense()


@pytest.mark.parametrize(("channels", "parameters"), [(1, 85_985), (3, 86_275)])
def test_the_generator_has_the_parameters_of_the_ports(channels: int, parameters: int) -> None:
    attack = AdvGan(AdvGanConfig(eps=0.3))
    attack.build((channels, 28, 28), 10)
    assert sum(parameter.numel() for parameter in attack.parameters()) == parameters


SHORT: dict[str, Any] = {"epochs": 1, "min_steps": 0, "batch_size": 16}
"""Many small steps in one pass over the images: a fifth of the work of the default's fewest."""


def test_training_makes_it_strong(victim: Victim) -> None:
    trained = victim.error(victim.craft(AdvGan(AdvGanConfig(eps=0.3, **SHORT))))
    untrained = victim.error(victim.craft(AdvGan(AdvGanConfig(eps=0.3)), train_steps=1))
    assert trained > 0.9
    assert trained > untrained + 0.2


def test_its_target_class_is_what_images_are_taken_for(victim: Victim) -> None:
    images = victim.craft(AdvGan(AdvGanConfig(eps=0.4, target_class=3, lr=3e-3, **SHORT)))
    with torch.no_grad():
        assert (victim.surface(images).argmax(dim=1) == 3).float().mean() > 0.7


def test_sizes_and_classes_that_it_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        AdvGan(AdvGanConfig(eps=0.3)).build((1, 30, 30), 10)
    with pytest.raises(ValueError, match="10 classes"):
        AdvGan(AdvGanConfig(eps=0.3, target_class=10)).build((1, 28, 28), 10)


def test_it_is_trained_for_each_surface_once_and_its_weights_are_kept(
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
    # on the target for all; for each pipeline with its own gradient and with that of the identity
    assert len(list((store / "train-attack" / "advgan").glob("*.json"))) == 5
    rows = records.set_index(["defense", "threat"])["error"]
    assert rows["identity", "black-box"] > 0.6
    assert rows["bit-depth", "white-box"] >= rows["bit-depth", "black-box"]
    again = small_run(store=str(store), out=tmp_path / "again", **keys)
    assert (again["key"] == records["key"]).all()
