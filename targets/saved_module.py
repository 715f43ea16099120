"""A user's own classifier, saved as a whole module in a file."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from benchmark.targets.loading.model_files import damaged_file, untrusted_file
from benchmark.targets.loading.preprocessing import PreprocessingConfig
from torch import Tensor, nn

from benchmark.api import (
    FilePath,
    PluginError,
    PretrainedTarget,
    Trust,
    file,
    format_exception,
    shown,
    target,
)

Format = Literal["TorchScript", "torch.export", "pickle"]


class SavedModuleConfig(PreprocessingConfig):
    """`file`: a file of `torch.jit.save`, `torch.export.save` or `torch.save`, relative to the grid file.

    `mean`, `std` and `size` normalise and resize the images, if the module does not do this itself.
    """

    file: FilePath = file()


@target("saved-module")
class SavedModule(PretrainedTarget[SavedModuleConfig]):
    """A classifier saved as a whole module by TorchScript, `torch.export` or `torch.save`.

    The module maps images in [0, 1] to logits, for batches of any size (for `torch.export` the first
    dimension has to be dynamic). Each of these files is a program: reading a file of `torch.save` or
    `torch.export.save` can run any code, and TorchScript can write to any file. The file is refused unless
    `--trust` names it.
    """

    network: nn.Module

    def __init__(
        self, config: SavedModuleConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__(config, image_shape, num_classes)
        config.check_channels(self.origin, image_shape)

    @property
    def origin(self) -> str:
        return f"saved module {shown(self.config.file)}"

    @classmethod
    def rests_on(cls, config: SavedModuleConfig, trusted: Trust) -> Mapping[str, str]:
        _trusted_format(Path(config.file), trusted)
        return {}

    def load(self, trusted: Trust) -> None:
        path = Path(self.config.file)
        file_format = _trusted_format(path, trusted)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
                network = _read(path, file_format)
        except Exception as error:  # each format has its own errors
            message = format_exception(error)
            raise PluginError(f"{self.origin} cannot be read as {file_format}: {message}") from error
        if not isinstance(network, nn.Module):
            raise PluginError(
                f"{self.origin} holds {type(network).__name__}, not a torch.nn.Module; "
                "for weights alone use the target `module`"
            )
        self.network = self.config.wrap(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


def _trusted_format(path: Path, trusted: Trust) -> Format:
    """The format of a file, if the file is trusted: each format is a program.

    This includes TorchScript: its operators `aten::from_file` and `aten::save` write to any file of the user.

    Raises:
        UserError: The file is not trusted.
    """
    file_format = _format(path)
    if path.resolve() not in trusted:
        is_pickle = file_format == "pickle"
        reason = "is a pickle" if is_pickle else f"is a {file_format} file, which is a program"
        raise untrusted_file(path, reason)
    return file_format


def _format(path: Path) -> Format:
    """The format of a file, recognised by the names of its parts."""
    with path.open("rb") as file:
        begin = file.read(2)
    if begin not in (b"", b"PK"):
        return "pickle"
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] or name for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise damaged_file(path, error) from error
    if "constants.pkl" in parts and any(part.startswith("code/") for part in parts):
        return "TorchScript"
    if parts & {"archive_format", "serialized_exported_program.json"}:
        return "torch.export"
    return "pickle"


def _read(path: Path, file_format: Format) -> object:
    if file_format == "TorchScript":
        return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    if file_format == "torch.export":
        return _Exported(torch.export.load(path).module())
    return torch.load(path, map_location="cpu", weights_only=False)


class _Exported(nn.Module):
    """An exported program, which keeps the mode of its export and raises if its mode is changed."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> _Exported:
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)  # type: ignore[no-any-return]
