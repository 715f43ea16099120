"""Libraries, device, threads, machine and commit: recorded with results by the harness, never by plugins."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from benchmark.checkout import checkout
from benchmark.version import __version__

_ATTACK_LIBRARIES = ("adversarial-robustness-toolbox", "foolbox")
LIBRARIES = ("torch", "torchvision", *_ATTACK_LIBRARIES, "numpy", "pillow", "torchmetrics")
"""Libraries on which the numbers depend."""

Environment = dict[str, str | int | None]


def library_versions() -> dict[str, str | None]:
    """The installed version of each library; None if it is not installed."""
    versions: dict[str, str | None] = dict.fromkeys(LIBRARIES)
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def environment(device: torch.device, threads: int) -> Environment:
    """Library versions, kind of device, number of threads, and the instruction set of the CPU kernels."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    capability = torch.backends.cpu.get_cpu_capability()
    return {**library_versions(), "device": kind, "threads": threads, "cpu": capability}


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python, and of the libraries."""
    return {"purifier-benchmark": __version__, "python": platform.python_version(), **library_versions()}


def provenance(device: str) -> dict[str, Any]:
    """Versions, git commit and whether the working tree had changes, machine, device, command."""
    return {
        "versions": versions(),
        "constraints": _constraints(),
        "git": _git_state(),
        "machine": {"platform": platform.platform(), "processor": platform.machine()},
        "device": device,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Let torch, and the linear algebra of numpy and scipy, use this number of threads.

    Sums are split over threads, so that rounding depends on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count):
            yield
    finally:
        torch.set_num_threads(before)


def _constraints() -> dict[str, str] | None:
    """The file of pinned releases and its SHA-256; None outside of a checkout."""
    root = checkout()
    path = None if root is None else Path(root, "constraints.txt")
    if path is None or not path.is_file():
        return None
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None  # an installed package has no repository
