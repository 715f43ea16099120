"""Measures how fast this machine is, compared with the one on which the table of costs was measured."""

from __future__ import annotations

import time
from functools import lru_cache
from statistics import median

import torch

_ROUNDS = 7
_MOST_SECONDS = 5.0


@lru_cache(maxsize=1)
def calibration_seconds() -> float:
    """Processor time of a small convolution, forward and backward, on one thread; measured once per process.

    The median of a few rounds. Takes less than a second on most machines, and starts no round after five. It
    draws no random numbers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> float:
    images = torch.linspace(0, 1, 100 * 28 * 28).reshape(100, 1, 28, 28)
    first = torch.linspace(-1, 1, 16 * 9).reshape(16, 1, 3, 3)
    second = torch.linspace(-1, 1, 32 * 16 * 9).reshape(32, 16, 3, 3)
    begin, seconds = time.perf_counter(), list[float]()
    while len(seconds) <= _ROUNDS and time.perf_counter() - begin < _MOST_SECONDS:
        start = time.thread_time()
        with torch.enable_grad():
            x = images.clone().requires_grad_()
            hidden = torch.nn.functional.conv2d(x, first, stride=2).relu()
            torch.autograd.grad(torch.nn.functional.conv2d(hidden, second).relu().sum(), x)
        seconds.append(time.thread_time() - start)
    return median(seconds[1:] or seconds)  # the first round includes the start of the library
