"""A user's own classifier, made by a Python function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.targets.loading.factories import find_factory
from benchmark.targets.loading.model_files import (
    build_module,
    code_identity,
    load_weights,
    read_weights,
    refuse_unsafe,
)
from benchmark.targets.loading.preprocessing import PreprocessingConfig
from torch import Tensor, nn

from benchmark.api import FilePath, PretrainedTarget, Trust, file, param, shown, target


class ModuleConfig(PreprocessingConfig):
    """`factory`: `package.module:function` or `file.py:function`, which is called with `arguments`.

    `weights`: a file of safetensors, or a state dict saved by torch; without it the module keeps its own
    weights. `mean`, `std` and `size` normalise and resize the images, if the module does not do this itself.
    The path of the weights is relative to the grid file, that of a factory to the current folder.
    """

    factory: str = param()
    weights: FilePath | None = file(None)
    arguments: dict[str, Any] = param({})


@target("module")
class Module(PretrainedTarget[ModuleConfig]):
    """A classifier that is made by your own Python function, with weights from a file.

    The function returns a `torch.nn.Module` that maps images in [0, 1] to logits. Results are identified by
    the content of the weights file and by the code of the function (for an installed package by its release,
    for a model collection by its name), and not by their paths. `--trust` has to name the file or the package
    of the function, so that a grid alone cannot run code. The models of torchvision and timm need no consent.
    """

    network: nn.Module

    def __init__(self, config: ModuleConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        config.check_channels(self.origin, image_shape)

    @property
    def origin(self) -> str:
        weights = f" with weights {shown(self.config.weights)}" if self.config.weights else ""
        return f"module {self.config.factory}{weights}"

    @classmethod
    def rests_on(cls, config: ModuleConfig, trusted: Trust) -> Mapping[str, str]:
        factory = find_factory(config.factory, trusted, config.arguments)
        if config.weights is not None:
            refuse_unsafe(Path(config.weights), trusted)
        return {"factory": f"{config.factory.rpartition(':')[2]} {code_identity(factory.module)}"}

    def load(self, trusted: Trust) -> None:
        config, origin = self.config, f"factory {self.config.factory}"
        factory = find_factory(config.factory, trusted, config.arguments)
        network = build_module(origin, factory.function, config.arguments)
        if config.weights is not None:
            path = Path(config.weights)
            load_weights(network, read_weights(path, trusted), path, origin)
        self.network = config.wrap(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]
