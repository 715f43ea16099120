"""Anyone's classifier, saved whole in a file."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.errors import PluginError, told
from benchmark.files import shown
from benchmark.plugin import FilePath, file
from targets.contract import GivenTarget, target
from targets.files import damaged, not_trusted
from targets.preparation import PreparationConfig

Form = Literal["TorchScript", "torch.export", "pickle"]


class SavedModuleConfig(PreparationConfig):
    """`file` is what `torch.jit.save`, `torch.export.save` or `torch.save` wrote.

    `mean`, `std` and `size` normalise and resize the images before it, where the module does not do this
    itself. The path is relative to the grid's file.
    """

    file: FilePath = file()


@target("saved-module")
class SavedModule(GivenTarget[SavedModuleConfig]):
    """A classifier saved as TorchScript or by `torch.export`.

    Images in [0, 1] to logits, for batches of any size (`torch.export` wants the first dimension dynamic).
    Each of these files is a program. A module pickled by `torch.save` and what `torch.export.save` wrote may
    run any code when they are read, and TorchScript can write to any file. They are refused unless
    `--trust` names them.
    """

    network: nn.Module

    def __init__(
        self, config: SavedModuleConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__(config, image_shape, num_classes)
        config.check(self.origin, image_shape)

    @property
    def origin(self) -> str:
        return f"saved module {shown(self.config.file)}"

    @classmethod
    def rests_on(cls, config: SavedModuleConfig, trusted: Collection[Path]) -> Mapping[str, str]:
        _allowed_form(Path(config.file), trusted)
        return {}

    def load(self, trusted: Collection[Path]) -> None:
        path = Path(self.config.file)
        form = _allowed_form(path, trusted)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is going to be retired
                network = _read(path, form)
        except Exception as error:  # each reader complains in its own way
            raise PluginError(f"{self.origin} cannot be read as {form}: {told(error)}") from error
        if not isinstance(network, nn.Module):
            raise PluginError(
                f"{self.origin} holds {type(network).__name__}, not a torch.nn.Module; "
                "weights alone go with the target `module`"
            )
        self.network = self.config.before(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


def _allowed_form(path: Path, trusted: Collection[Path]) -> Form:
    """The form of a file that may be read: each of them is a program.

    Even TorchScript is: its operators `aten::from_file` and `aten::save` write to any file of the user's.

    Raises:
        UserError: It is not among the trusted files.
    """
    form = _form(path)
    if path.resolve() not in trusted:
        raise not_trusted(
            path, "is a pickle" if form == "pickle" else f"is a {form} file, which is a program"
        )
    return form


def _form(path: Path) -> Form:
    """What wrote the file, told by the names of its parts."""
    with path.open("rb") as file:
        begin = file.read(2)
    if begin not in (b"", b"PK"):
        return "pickle"
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] or name for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error
    if "constants.pkl" in parts and any(part.startswith("code/") for part in parts):
        return "TorchScript"
    if parts & {"archive_format", "serialized_exported_program.json"}:
        return "torch.export"
    return "pickle"


def _read(path: Path, form: Form) -> object:
    if form == "TorchScript":
        return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    if form == "torch.export":
        return _Exported(torch.export.load(path).module())
    return torch.load(path, map_location="cpu", weights_only=False)


class _Exported(nn.Module):
    """An exported program: it has the mode that it was exported in, and refuses to be asked for another."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> _Exported:
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)  # type: ignore[no-any-return]
