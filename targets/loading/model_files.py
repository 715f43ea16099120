"""Reads model files of users, and refuses files whose reading can run code."""

from __future__ import annotations

import sysconfig
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from benchmark.targets.loading.factories import COLLECTIONS
from torch import Tensor, nn

from benchmark.api import (
    PluginError,
    Trust,
    UserError,
    consent_hint,
    format_exception,
    own_fingerprint,
    release,
    shown,
)

_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the weights in a checkpoint."""

_MAX_NAMES = 3


def code_identity(module: ModuleType) -> str:
    """The identity of a module's code: the release of its package if installed, or a fingerprint.

    For a model collection it is only the name, because the weights identify the model.

    Raises:
        UserError: The module has no Python source.
    """
    source = None if module.__file__ is None else Path(module.__file__)
    if source is None or source.suffix != ".py":
        raise UserError(
            f"{module.__name__} has no Python source, so that its versions cannot be distinguished"
        )
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    package = module.__name__.partition(".")[0]
    version = release(package)
    if version and any(folder in source.resolve().parents for folder in installed):
        return package if package in COLLECTIONS else version
    return own_fingerprint(source, module.__name__)


def refuse_unsafe(path: Path, trusted: Trust) -> None:
    """Refuse a file that holds more than weights: reading a pickle can run any code.

    Raises:
        UserError: It is such a file and not trusted, or it is damaged.
    """
    if path.suffix == ".safetensors" or path.resolve() in trusted:
        return
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch has several errors for an incomplete file
        if type(error).__name__ == "UnpicklingError" and "truncated" not in str(error):
            raise untrusted_file(path, "is not plain weights") from error
        raise damaged_file(path, error) from error


def damaged_file(path: Path, error: Exception) -> UserError:
    """The error for a file that is truncated, empty or corrupt."""
    return UserError(f"the model file {shown(path)!r} is damaged, or holds no model: {_first_line(error)}")


def untrusted_file(path: Path, reason: str) -> UserError:
    """The error for a file whose reading can run code."""
    return UserError(
        f"the model file {shown(path)!r} {reason}: reading it can run code that its author put into it",
        hint=f"save the weights as safetensors; or, {consent_hint('--trust', shown(path))}",
    )


def read_weights(path: Path, trusted: Trust) -> dict[str, Tensor]:
    """Read the weights in a file by name: safetensors, or a state dict saved by torch.

    Raises:
        PluginError: The file holds no weights, or is damaged.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=path.resolve() not in trusted)
    except Exception as error:  # each format has its own errors
        raise PluginError(f"weights {shown(path)} cannot be read: {_first_line(error)}") from error
    if isinstance(content, nn.Module):
        content = content.state_dict()
    for key in _CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise PluginError(f"weights {shown(path)} hold no state dict: a mapping of names to tensors")
    return dict(content)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], path: Path, origin: str) -> None:
    """Load weights into a module. The names must match; a prefix `module.` of all names is removed first.

    Raises:
        PluginError: Some are missing, unknown, of another shape, or of another kind of number (float,
            complex, other); the message names them.
    """
    if weights and all(name.startswith("module.") for name in weights):  # saved from DataParallel
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    expected = module.state_dict()
    problems = {
        "missing": [name for name in expected if name not in weights],
        "not in the module": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
        "of another kind of number": [
            f"{name} {weights[name].dtype} for {tensor.dtype}"
            for name, tensor in expected.items()
            if name in weights and _number_kind(weights[name]) != _number_kind(tensor)
        ],
    }
    messages = [
        f"{len(names)} {problem} ({_abbreviated(names)})" for problem, names in problems.items() if names
    ]
    if messages:
        raise PluginError(f"weights {shown(path)} do not fit {origin}: {'; '.join(messages)}")
    module.load_state_dict(dict(weights))


def build_module(origin: str, factory: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a user's function that makes a module.

    Raises:
        PluginError: The function raises, or returns something else; the message names it.
    """
    try:
        module = factory(**arguments)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{origin} raised {format_exception(error)}") from error
    if not isinstance(module, nn.Module):
        raise PluginError(f"{origin} returned {type(module).__name__}, not a torch.nn.Module")
    return module


def _number_kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _abbreviated(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"
