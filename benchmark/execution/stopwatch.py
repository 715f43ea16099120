"""Measuring the time of work on a device."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Measures the seconds of a `with` block; waits for queued CUDA work before each reading."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> Stopwatch:
        self._begin = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._begin

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
