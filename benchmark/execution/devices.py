"""Choosing the device that models run on."""

from __future__ import annotations

import torch

from benchmark.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device of that name, if PyTorch can use it; `auto` is CUDA if available, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        hint = "use auto, cpu, cuda or cuda:N, where N is the number of the GPU"
        raise UserError(f"no device {name!r}: PyTorch does not know this name", hint=hint) from error
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        fault = f"no device {name!r}: {str(error).splitlines()[0]}"
        raise UserError(fault, hint="try --device cpu") from error
    return device
