"""Plugins that built-in grids name before they are there, and data sets without their images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmark import resolve
from benchmark.grid import GRIDS, Choice
from benchmark.refs import DatasetRef
from benchmark.registry import Registry, default_registry

AWAITED = {
    "dataset": ("cifar10", "cifar100", "imagenet"),
    "target": ("cifar-d", "resnet18", "densenet40", "vgg13", "advgan-cnn", "resnet50", "inception-v3"),
}

_HEAD = """
from benchmark.datasets.contract import Dataset, dataset
from benchmark.plugin import Config, param, train
from targets.contract import Target, target

class Sized(Config):
    size: int | None = param(None)

class Trained(Config):
    adversarial: dict | None = train(None)
"""
_TARGET = """
@target("{name}")
class Target{number}(Target[Trained]):
    def fit(self, data, generator): ...
    def forward(self, x): ...
"""
_DATASET = """
@dataset("{name}")
class Dataset{number}(Dataset[Sized]):
    source = "resnet18"
    def prepare(self): ...
    def fingerprint(self): ...
    def load_train(self): ...
    def load_test(self): ...
"""


def absent_plugins(grid: str, registry: Registry) -> list[str]:
    """What a built-in grid names and the registry does not know yet."""
    text = "\n".join(
        line
        for line in (GRIDS / f"{grid}.yaml").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    absent = [
        name
        for kind, names in AWAITED.items()
        for name in names
        if name not in registry.names(kind) and re.search(rf"(?<![\w-]){name}(?![\w-])", text)
    ]
    if "adversarial:" in text and not _trains_adversarially(registry):
        absent.append("adversarial")
    return absent


def _trains_adversarially(registry: Registry) -> bool:
    return "adversarial" in registry.get("target", "mnist-c").load().config_type().model_fields


def registry_with_standins(folder: Path) -> Registry:
    """The default registry, with a stand-in for each awaited plugin that is not there."""
    registry = default_registry()
    text = _HEAD
    for kind, template in (("target", _TARGET), ("dataset", _DATASET)):
        for number, name in enumerate(AWAITED[kind]):
            if name not in registry.names(kind):
                text += template.format(name=name, number=number)
    if text == _HEAD:
        return registry
    (folder / "standins.py").write_text(text)
    return default_registry([folder / "standins.py"])


def without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan as if every data set had 10,000 test images, whether they are here or not."""

    def dataset(choice: Choice, *_: Any) -> DatasetRef:
        return DatasetRef(**resolve._basics(choice), images="0" * 64, test_size=10_000)

    monkeypatch.setattr(resolve, "_dataset", dataset)
