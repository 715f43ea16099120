"""Anyone's classifier, made by a function of theirs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmark.files import shown
from benchmark.plugin import FilePath, file, param
from targets.contract import GivenTarget, target
from targets.factories import find_factory
from targets.files import called, code_of, put_weights, read_weights, refuse_unsafe
from targets.preparation import PreparationConfig


class ModuleConfig(PreparationConfig):
    """`factory` is `package.module:function`, or `file.py:function`; it is called with `arguments`.

    `weights` is a file of safetensors, or a state dict saved by torch; without it, the weights are those
    that the function makes. `mean`, `std` and `size` normalise and resize the images before it, where the
    module does not do this itself. The path of the weights is relative to the grid's file, that of a factory
    to the folder that bench runs in.
    """

    factory: str = param()
    weights: FilePath | None = file(None)
    arguments: dict[str, Any] = param({})


@target("module")
class Module(GivenTarget[ModuleConfig]):
    """A classifier that a function of your own makes, with weights from a file.

    The function returns a `torch.nn.Module`: images in [0, 1] to logits. What counts for the results is the
    function's code (of an installed package: its release; of a model collection: its name) and the content
    of the file, not their places.
    `--trust` has to name the file or the package of the function, so that a grid alone runs no code. The
    models of torchvision and timm need no consent.
    """

    network: nn.Module

    def __init__(self, config: ModuleConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        config.check(self.origin, image_shape)

    @property
    def origin(self) -> str:
        weights = f" with weights {shown(self.config.weights)}" if self.config.weights else ""
        return f"module {self.config.factory}{weights}"

    @classmethod
    def rests_on(cls, config: ModuleConfig, trusted: Collection[Path]) -> Mapping[str, str]:
        module, _ = find_factory(config.factory, trusted, config.arguments)
        if config.weights is not None:
            refuse_unsafe(Path(config.weights), trusted)
        return {"factory": f"{config.factory.rpartition(':')[2]} {code_of(module)}"}

    def load(self, trusted: Collection[Path]) -> None:
        _, make = find_factory(self.config.factory, trusted, self.config.arguments)
        network = called(f"factory {self.config.factory}", make, self.config.arguments)
        if self.config.weights is not None:
            path = Path(self.config.weights)
            put_weights(network, read_weights(path, trusted), path, f"factory {self.config.factory}")
        self.network = self.config.before(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]
