"""A split over image files: decoded when they are asked for, never all in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from benchmark.datasets.contract import Split

_SMALL = 64 * 64
"""Pixels of an image up to which decoded images may be kept."""

_KEPT_BYTES = 512 * 2**20
"""What the decoded images of one split may take at most, all of them together."""

_MOST_WORKERS = 16


class StreamedSplit(Split):
    """Images that a function decodes, by several threads at a time.

    Small images (up to 64×64) are kept once decoded, 8 bits a value, where all of the split fit in
    512 MiB: training passes over them many times. Of others nothing outlives the call.

    Args:
        labels: int64, shape (N,).
        shape: (C, H, W) of the images.
        decode: Gives the image at an index: uint8, of that shape. Called from several threads.
    """

    def __init__(self, labels: Tensor, shape: tuple[int, int, int], decode: Callable[[int], Tensor]) -> None:
        self.labels = labels.to(torch.int64)
        self._shape = shape
        self._decode = decode
        small = shape[1] * shape[2] <= _SMALL and len(labels) * math.prod(shape) <= _KEPT_BYTES
        self._kept = torch.empty((len(labels), *shape), dtype=torch.uint8) if small else None
        self._known = torch.zeros(len(labels), dtype=torch.bool)

    def take(self, indices: Tensor) -> Tensor:
        if self._kept is None:
            images = torch.empty((len(indices), *self._shape), dtype=torch.uint8)
            self._fill(images, torch.arange(len(indices)), indices)
        else:
            missing = torch.unique(indices[~self._known[indices]])
            self._fill(self._kept, missing, missing)
            self._known[missing] = True
            images = self._kept[indices]
        return images.float().div_(255)

    def _fill(self, images: Tensor, places: Tensor, indices: Tensor) -> None:
        """Decode the images at `indices` into `places`; a share for each thread."""
        pairs = list(zip(places.tolist(), indices.tolist(), strict=True))

        def fill(first: int) -> None:
            for place, index in pairs[first :: _workers()]:
                images[place] = self._decode(index)

        for _ in _pool().map(fill, range(min(len(pairs), _workers()))):
            pass  # what one of them raises is raised here


def _workers() -> int:
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads suffice: the decoder lets go of Python's lock."""
    return ThreadPoolExecutor(_workers(), thread_name_prefix="decode")
