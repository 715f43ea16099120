"""Time of the random numbers of purifiers: a part of `studies.speed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from tabulate import tabulate

from benchmark.api.noise import Noise, StreamNoise
from studies.speed.purifiers import timed

_IMAGES = 100
_ROUNDS = 60


def noise() -> None:
    """Print microseconds per image and draw, and how often each takes the time of torch.

    The rows `numpy` fill one array from one stream without any code of ours. No stream of numpy's that gives
    the same numbers can be faster.
    """
    rows = []
    for shape in ((1, 28, 28), (3, 32, 32)):
        times = _microseconds(_draws(torch.zeros(_IMAGES, *shape)))
        for name, took in times.items():
            kind = name.rpartition(", ")[2]
            rows.append(["×".join(map(str, shape)), name, took, took / times[f"torch, {kind}"]])
    headers = ["image", "numbers", "µs per image", "× torch"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", "", ".1f", ".2f")))


def _draws(like: torch.Tensor) -> dict[str, Callable[[], object]]:
    stream, streams = StreamNoise(0), Noise(0, range(len(like)))
    bare, filled = np.random.Generator(np.random.Philox(key=0)), np.empty(like.shape, dtype=np.float32)
    return {
        "torch, normal": lambda: torch.randn(like.shape),
        "numpy, normal": lambda: bare.standard_normal(out=filled, dtype=np.float32),
        "Noise with new streams, normal": lambda: Noise(0, range(len(like))).normal_like(like),
        "Noise, normal": lambda: streams.normal_like(like),
        "StreamNoise, normal": lambda: stream.normal_like(like),
        "torch, uniform": lambda: torch.rand(like.shape),
        "numpy, uniform": lambda: bare.random(out=filled, dtype=np.float32),
        "Noise with new streams, uniform": lambda: Noise(0, range(len(like))).uniform_like(like),
        "Noise, uniform": lambda: streams.uniform_like(like),
        "StreamNoise, uniform": lambda: stream.uniform_like(like),
    }


def _microseconds(draws: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The least time of many rounds per image: other programs only add to it. All draws run in turn."""
    rounds = [{name: timed(draw) for name, draw in draws.items()} for _ in range(_ROUNDS)]
    return {name: 1e6 * min(times[name] for times in rounds) / _IMAGES for name in draws}
