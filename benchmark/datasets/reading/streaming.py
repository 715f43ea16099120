"""A split of image files that are decoded on demand."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from benchmark.api import Split


class StreamedSplit(Split):
    """Images that are decoded by several threads when `take` is called.

    Small images (up to 64×64) are cached as uint8, if all images of the split fit in 512 MiB, because
    training uses them many times. Larger ones are not cached.

    Args:
        labels: int64, shape (N,).
        shape: (C, H, W) of the images.
        decode: Returns the image at an index: uint8, of that shape. Called from several threads.
    """

    def __init__(self, labels: Tensor, shape: tuple[int, int, int], decode: Callable[[int], Tensor]) -> None:
        self.labels = labels.to(torch.int64)
        self._shape = shape
        self._decode = decode
        small = shape[1] * shape[2] <= 64 * 64 and len(labels) * math.prod(shape) <= 512 * 2**20
        self._cache = torch.empty((len(labels), *shape), dtype=torch.uint8) if small else None
        self._is_cached = torch.zeros(len(labels), dtype=torch.bool)

    def take(self, indices: Tensor) -> Tensor:
        if self._cache is None:
            images = torch.empty((len(indices), *self._shape), dtype=torch.uint8)
            self._decode_into(images, torch.arange(len(indices)), indices)
        else:
            missing = torch.unique(indices[~self._is_cached[indices]])
            self._decode_into(self._cache, missing, missing)
            self._is_cached[missing] = True
            images = self._cache[indices]
        return images.float().div_(255)

    def _decode_into(self, images: Tensor, rows: Tensor, indices: Tensor) -> None:
        """Decode the images at `indices` into these rows of `images`, a share in each thread."""
        pairs = list(zip(rows.tolist(), indices.tolist(), strict=True))

        def decode_share(first: int) -> None:
            for row, index in pairs[first :: _workers()]:
                images[row] = self._decode(index)

        for _ in _pool().map(decode_share, range(min(len(pairs), _workers()))):
            pass  # an exception of a thread is raised here


def _workers() -> int:
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads are enough, since the decoder releases the global interpreter lock."""
    return ThreadPoolExecutor(_workers(), thread_name_prefix="decode")
