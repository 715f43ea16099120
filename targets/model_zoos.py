"""Classifiers from the model collections timm and RobustBench, where these are installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.errors import PluginError, UserError
from benchmark.opened_files import unwatched
from benchmark.plugin import Config, param
from benchmark.trust import Trust, ask, is_importable
from targets.contract import GivenTarget, target
from targets.factories import is_installed
from targets.files import called
from targets.preparation import Prepared


class TimmConfig(Config):
    """`model` is timm's name of it, e.g. `resnet50.a1_in1k`."""

    model: str = param()


class RobustBenchConfig(Config):
    """`model` is RobustBench's name of it, e.g. `Carmon2019Unlabeled`; `dataset` and `threat_model` say on
    which of its leaderboards it stands.
    """

    model: str = param()
    dataset: Literal["cifar10", "cifar100", "imagenet"] = param("cifar10")
    threat_model: Literal["Linf", "L2", "corruptions"] = param("Linf")


@target("timm")
class Timm(GivenTarget[TimmConfig]):
    """A pretrained classifier of the package timm (`pip install purifier-benchmark[timm]`).

    timm says how its images are resized and normalised, and downloads the weights; the classes are those
    that it was trained on, in timm's order.
    """

    network: nn.Module

    @property
    def origin(self) -> str:
        return f"timm model {self.config.model}"

    @classmethod
    def rests_on(cls, config: TimmConfig, trusted: Collection[Path]) -> Mapping[str, str]:
        timm = _package("timm", "timm", trusted)
        if not timm.is_model(config.model.partition(".")[0]):
            raise UserError(f"target timm: timm has no model {config.model!r}", hint="see timm.list_models()")
        return {}

    def load(self, trusted: Collection[Path]) -> None:
        timm = _package("timm", "timm", trusted)
        with unwatched():  # what it loads is known again by its digest
            network = called(
                self.origin, timm.create_model, {"model_name": self.config.model, "pretrained": True}
            )
        data = timm.data.resolve_model_data_config(network)
        channels, size, _ = data["input_size"]
        if channels != self.image_shape[0]:
            raise PluginError(f"{self.origin} takes {channels} channel(s), got {self.image_shape[0]}")
        self.network = Prepared(network, size=size, mean=data["mean"], std=data["std"])

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


@target("robustbench")
class RobustBench(GivenTarget[RobustBenchConfig]):
    """A classifier of RobustBench's leaderboards (`pip install purifier-benchmark[robustbench]`).

    RobustBench downloads it, and reads it in its own way: to name one is to trust it. It normalises its
    images itself.
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
    def rests_on(cls, config: RobustBenchConfig, trusted: Collection[Path]) -> Mapping[str, str]:
        _package("robustbench.utils", "robustbench", trusted)
        return {}

    def load(self, trusted: Collection[Path]) -> None:
        config = self.config
        names = {
            "model_name": config.model,
            "dataset": config.dataset,
            "threat_model": config.threat_model,
            # Not its default, ./models: a file that lies in the current folder would be unpickled.
            "model_dir": str(Path(torch.hub.get_dir()) / "robustbench"),
        }
        with unwatched():  # as with timm
            load_model = _package("robustbench.utils", "robustbench", trusted).load_model
            self.network = called(self.origin, load_model, names)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


def _package(module: str, extra: str, trusted: Collection[Path]) -> Any:
    """An optional package, imported.

    Raises:
        UserError: It is not installed; or it lies elsewhere, such as in the current folder, untrusted.
    """
    known = extra in sys.modules or extra in Trust.of(trusted).packages
    if not known and is_importable(extra) and not is_installed(extra):
        raise UserError(
            f"target {extra}: the package {extra} is not where installed packages are",
            hint=ask("--trust", extra),
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"target {extra} needs the package {extra}, which cannot be imported: {error}",
            hint=f'pip install "purifier-benchmark[{extra}]"',
        ) from error
