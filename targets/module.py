"""Anyone's classifier, made by a function of theirs."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from benchmark.errors import UserError, told
from benchmark.importing import import_file
from benchmark.plugin import param
from targets.contract import GivenTarget, target
from targets.files import called, code_of, content_of, put_weights, read_weights, refuse_unsafe
from targets.preparation import PreparationConfig


class ModuleConfig(PreparationConfig):
    """`factory` is `package.module:function`, or `file.py:function`; it is called with `arguments`.

    `weights` is a file of safetensors, or a state dict saved by torch; without it, the weights are those
    that the function makes. `mean`, `std` and `size` normalise and resize the images before it, where the
    module does not do this itself. Paths are seen from the folder that bench runs in.
    """

    factory: str = param()
    weights: str | None = param(None)
    arguments: dict[str, Any] = param({})


@target("module")
class Module(GivenTarget[ModuleConfig]):
    """A classifier that a function of your own makes, with weights from a file.

    The function returns a `torch.nn.Module`: images in [0, 1] to logits. What counts for the results is the
    function's code (of an installed package: its release) and the content of the file, not their places.
    """

    network: nn.Module

    def __init__(self, config: ModuleConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        config.check(self.origin, image_shape)

    @property
    def origin(self) -> str:
        weights = f" with weights {self.config.weights}" if self.config.weights else ""
        return f"module {self.config.factory}{weights}"

    @classmethod
    def rests_on(cls, config: ModuleConfig, trusted: Collection[Path]) -> Mapping[str, str]:
        module, name = _factory(config.factory)
        found = {"factory": f"{name} {code_of(module)}"}
        if config.weights is not None:
            found["weights"] = content_of(Path(config.weights))
            refuse_unsafe(Path(config.weights), trusted)
        return found

    def load(self, trusted: Collection[Path]) -> None:
        module, name = _factory(self.config.factory)
        network = called(f"factory {self.config.factory}", getattr(module, name), self.config.arguments)
        if self.config.weights is not None:
            path = Path(self.config.weights)
            put_weights(network, read_weights(path, trusted), path, f"factory {self.config.factory}")
        self.network = self.config.before(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


def _factory(text: str) -> tuple[ModuleType, str]:
    """The module that a factory is in, imported, and the factory's name there.

    Raises:
        UserError: There is none.
    """
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise UserError(
            f"target module: no factory {text!r}", hint="give package.module:function, or file.py:function"
        )
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"target module: there is no file {place!r}", hint=f"seen from {Path.cwd()}")
    try:
        module = import_file(path) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # somebody's code may raise anything
        hint = None if is_file else "is it installed in this environment? file.py:function works too"
        raise UserError(f"target module: {place} cannot be imported: {told(error)}", hint=hint) from error
    if not callable(getattr(module, name, None)):
        raise UserError(f"target module: {place} has no function {name!r}")
    return module, name
