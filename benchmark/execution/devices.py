"""The device that models run on, and the processor cores of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

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


def gpu_environments(device: torch.device) -> Sequence[Mapping[str, str]]:
    """Environment variables that give each of several processes its own GPU, one entry per GPU."""
    if device.type != "cuda" or device.index is not None:
        return ({},)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": name.strip()} for name in names]


def worker_count(wanted: str, device: torch.device, threads: int, per_gpu: int = 1) -> int:
    """The number of worker processes for `--workers`: a number, or `auto`.

    `auto` is `per_gpu` for each GPU, or on the CPU as many as have `threads` cores each.

    Raises:
        UserError: It is neither.
    """
    if wanted == "auto":
        on_gpus = per_gpu * len(gpu_environments(device))
        return on_gpus if device.type == "cuda" else max(1, physical_cores() // threads)
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    raise UserError(f"--workers is auto or a number from 1, got {wanted!r}")


def total_memory() -> float:
    """The main memory that this process may use, in GiB; infinity if the system does not say it."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # no such function on Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # another system, or "max": no limit for the container
        limits.append(int((_CGROUP / "memory.max").read_text()))
    return min(limits, default=float("inf")) / 2**30


_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def physical_cores() -> int:
    """The cores that this process may use: no hyper-threads, and within the quota of a container."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = [_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in allowed]
    try:
        cores = len({path.read_text() for path in siblings})
    except OSError:
        cores = len(allowed)
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # another system, or "max": no quota
        pass
    return max(1, cores)
