"""Reading models that somebody brings: what is in a file, and whether reading it runs code."""

from __future__ import annotations

import sysconfig
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.code import own_fingerprint, release
from benchmark.errors import PluginError, UserError, told
from benchmark.files import shown
from benchmark.trust import ask
from targets.factories import COLLECTIONS

_WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Names under which training scripts keep the weights beside other things."""

_SHOWN = 3


def code_of(module: ModuleType) -> str:
    """The identity of a module's code: the release that it was installed with, or a fingerprint.

    Of a collection of models the name is enough: what it makes is known again by its weights.

    Raises:
        UserError: It has no source.
    """
    source = None if module.__file__ is None else Path(module.__file__)
    if source is None or source.suffix != ".py":
        raise UserError(f"{module.__name__} has no Python source to tell its versions apart by")
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    package = module.__name__.partition(".")[0]
    version = release(package)
    if version and any(folder in source.resolve().parents for folder in installed):
        return package if package in COLLECTIONS else version
    return own_fingerprint(source, module.__name__)


def refuse_unsafe(path: Path, trusted: Collection[Path]) -> None:
    """Refuse a file of weights that is more than weights: a pickle may run any code when it is read.

    Raises:
        UserError: It is such a file, and not among the trusted ones.
    """
    if path.suffix == ".safetensors" or path.resolve() in trusted:
        return
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch says in several ways that a file is no whole one
        if type(error).__name__ == "UnpicklingError" and "truncated" not in str(error):
            raise not_trusted(path, "is not plain weights") from error
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """The refusal of a file that is cut, empty or spoilt."""
    return UserError(f"the model file {shown(path)!r} is damaged, or holds no model: {_first_line(error)}")


def not_trusted(path: Path, what: str) -> UserError:
    """The refusal of a file whose reading may run code; `what` it is."""
    return UserError(
        f"the model file {shown(path)!r} {what}: to read it may run code that somebody put into it",
        hint=f"save the weights as safetensors; or, {ask('--trust', shown(path))}",
    )


def read_weights(path: Path, trusted: Collection[Path]) -> dict[str, Tensor]:
    """The weights in a file by name: safetensors, or a state dict saved by torch.

    Raises:
        PluginError: The file holds no weights, or is damaged.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        held: Any = torch.load(path, map_location="cpu", weights_only=path.resolve() not in trusted)
    except Exception as error:  # each format complains in its own way
        raise PluginError(f"weights {shown(path)} cannot be read: {_first_line(error)}") from error
    if isinstance(held, nn.Module):
        held = held.state_dict()
    for name in _WRAPPINGS:
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise PluginError(f"weights {shown(path)} hold no state dict: a mapping of names to tensors")
    return dict(held)


def put_weights(module: nn.Module, weights: Mapping[str, Tensor], path: Path, origin: str) -> None:
    """Load weights into a module; all of them, and no others.

    Raises:
        PluginError: Some are missing, unknown, or of another shape; names them.
    """
    if weights and all(name.startswith("module.") for name in weights):  # saved from DataParallel
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    wanted = module.state_dict()
    faults = {
        "missing": [name for name in wanted if name not in weights],
        "not in the module": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
        "of another kind of number": [
            f"{name} {weights[name].dtype} for {tensor.dtype}"
            for name, tensor in wanted.items()
            if name in weights and _kind(weights[name]) != _kind(tensor)
        ],
    }
    told_faults = [f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names]
    if told_faults:
        raise PluginError(f"weights {shown(path)} do not fit {origin}: {'; '.join(told_faults)}")
    module.load_state_dict(dict(weights))


def called(origin: str, make: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """The module that somebody's function makes.

    Raises:
        PluginError: It raises, or makes something else; names it.
    """
    try:
        made = make(**arguments)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{origin} raised {told(error)}") from error
    if not isinstance(made, nn.Module):
        raise PluginError(f"{origin} returned {type(made).__name__}, not a torch.nn.Module")
    return made


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"
