"""Pretrained classifiers of the model collections timm and RobustBench, if these are installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from benchmark.targets.loading.factories import is_installed
from benchmark.targets.loading.model_files import build_module
from benchmark.targets.loading.preprocessing import Preprocessed
from torch import Tensor, nn

from benchmark.api import (
    Config,
    PluginError,
    PretrainedTarget,
    Trust,
    UserError,
    consent_hint,
    is_importable,
    param,
    target,
    unwatched,
)


class TimmConfig(Config):
    """`model`: the name in timm, e.g. `resnet50.a1_in1k`."""

    model: str = param()


class RobustBenchConfig(Config):
    """`model`: the name in RobustBench, e.g. `Carmon2019Unlabeled`.

    `dataset` and `threat_model` name the leaderboard of RobustBench.
    """

    model: str = param()
    dataset: Literal["cifar10", "cifar100", "imagenet"] = param("cifar10")
    threat_model: Literal["Linf", "L2", "corruptions"] = param("Linf")


@target("timm")
class Timm(PretrainedTarget[TimmConfig]):
    """A pretrained classifier of the package timm (`pip install purifier-benchmark[timm]`).

    timm downloads the weights and determines how images are resized and normalised. The classes are those of
    the model, in timm's order.
    """

    network: nn.Module

    @property
    def origin(self) -> str:
        return f"timm model {self.config.model}"

    @classmethod
    def rests_on(cls, config: TimmConfig, trusted: Trust) -> Mapping[str, str]:
        timm = _package("timm", "timm", trusted)
        if not timm.is_model(config.model.partition(".")[0]):
            raise UserError(f"target timm: timm has no model {config.model!r}", hint="see timm.list_models()")
        return {}

    def load(self, trusted: Trust) -> None:
        timm = _package("timm", "timm", trusted)
        with unwatched():  # the digest of the weights identifies what is loaded
            network = build_module(
                self.origin, timm.create_model, {"model_name": self.config.model, "pretrained": True}
            )
        data = timm.data.resolve_model_data_config(network)
        channels, size, _ = data["input_size"]
        if channels != self.image_shape[0]:
            raise PluginError(f"{self.origin} takes {channels} channel(s), got {self.image_shape[0]}")
        self.network = Preprocessed(network, size=size, mean=data["mean"], std=data["std"])

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


@target("robustbench")
class RobustBench(PretrainedTarget[RobustBenchConfig]):
    """A classifier of the leaderboards of RobustBench (`pip install purifier-benchmark[robustbench]`).

    RobustBench downloads and reads the model in its own way, so use only models that you trust. The models
    normalise their images themselves.
    """

    network: nn.Module

    def __init__(
        self, config: RobustBenchConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__(config, image_shape, num_classes)
        if image_shape[0] != 3:
            raise ValueError(f"{self.origin} takes RGB images, got {image_shape[0]} channel(s)")

    @property
    def origin(self) -> str:
        config = self.config
        return f"RobustBench model {config.model} ({config.dataset}, {config.threat_model})"

    @classmethod
    def rests_on(cls, config: RobustBenchConfig, trusted: Trust) -> Mapping[str, str]:
        _package("robustbench.utils", "robustbench", trusted)
        return {}

    def load(self, trusted: Trust) -> None:
        config = self.config
        names = {
            "model_name": config.model,
            "dataset": config.dataset,
            "threat_model": config.threat_model,
            # Not the default ./models, where a file in the current folder would be unpickled.
            "model_dir": str(Path(torch.hub.get_dir()) / "robustbench"),
        }
        with unwatched():  # as with timm
            load_model = _package("robustbench.utils", "robustbench", trusted).load_model
            self.network = build_module(self.origin, load_model, names)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


def _package(module: str, extra: str, trusted: Trust) -> Any:
    """Import a module of an optional package.

    Raises:
        UserError: The package is not installed, or it is in another folder, such as the current one, and not
            trusted.
    """
    known = extra in sys.modules or extra in trusted.packages
    if not known and is_importable(extra) and not is_installed(extra):
        raise UserError(
            f"target {extra}: the package {extra} is not in the folder of installed packages",
            hint=consent_hint("--trust", extra),
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"target {extra} needs the package {extra}, which cannot be imported: {error}",
            hint=f'pip install "purifier-benchmark[{extra}]"',
        ) from error
