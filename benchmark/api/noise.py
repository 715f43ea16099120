"""Random numbers for each image, so that results do not depend on batches or workers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class Noise:
    """One random stream for each image of a batch.

    A stream depends only on the seed and the index of the image: an image gets the same noise in any batch,
    for any number of images and on any machine. Numbers are drawn on the CPU (Philox, counter-based) and then
    moved to the device, so they are the same on CUDA.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self.seed = seed
        self.indices = list(indices)

    @cached_property
    def _streams(self) -> list[np.random.Generator]:
        keys = ([self.seed % 2**64, index] for index in self.indices)
        return [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def _draw(self, like: Tensor, method: str) -> Tensor:
        if len(like) != len(self.indices):
            raise ValueError(f"noise for {len(self.indices)} images, asked for {len(like)}")
        shape = tuple(like.shape[1:])
        rows = [getattr(stream, method)(shape, dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(rows)).to(like.device)

    def normal_like(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of `like` (images first), float32."""
        return self._draw(like, "standard_normal")

    def uniform_like(self, like: Tensor) -> Tensor:
        """Numbers uniform on [0, 1) of the shape of `like` (images first), float32."""
        return self._draw(like, "random")


class StreamNoise(Noise):
    """Noise for any batch: new numbers at each call, reproducible only if the calls are the same.

    For surfaces, since attacks drop, repeat and reorder images.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed, [])
        self._stream = np.random.Generator(np.random.Philox(key=[seed % 2**64, 2**63]))

    def _draw(self, like: Tensor, method: str) -> Tensor:
        drawn = getattr(self._stream, method)(tuple(like.shape), dtype=np.float32)
        return torch.from_numpy(drawn).to(like.device)
