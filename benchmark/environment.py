"""What results are computed with beside this project's code: libraries, device, threads, processor."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

LIBRARIES = (
    "torch",
    "torchvision",
    "adversarial-robustness-toolbox",
    "foolbox",
    "numpy",
    "pillow",
    "torchmetrics",
)
"""Libraries that figures depend on."""

Environment = dict[str, str | int | None]


def releases(names: tuple[str, ...] = LIBRARIES) -> dict[str, str | None]:
    """The installed releases of distributions; None of one that is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def environment(device: torch.device, threads: int) -> Environment:
    """Releases, the kind of device, the number of threads, and the instructions that CPU kernels use."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    capability = torch.backends.cpu.get_cpu_capability()
    return {**releases(), "device": kind, "threads": threads, "cpu": capability}


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Let torch and the linear algebra of numpy and scipy use this number of threads.

    Sums are split over threads, so that another number of them rounds otherwise.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count):
            yield
    finally:
        torch.set_num_threads(before)
