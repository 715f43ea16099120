"""Random numbers for each image, so that results do not depend on batches or workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import DTypeLike, NDArray
from torch import Tensor


class _Key(ISeedSequence):
    """The key of a Philox stream.

    `Philox(key=…)` gives the same stream, but first asks the system for a seed, which it does not use. That
    takes longer than all the rest.
    """

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[np.uint64]:
        return self._key


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
        keys = np.empty((len(self.indices), 2), dtype=np.uint64)
        keys[:, 0], keys[:, 1] = self.seed % 2**64, self.indices
        return [np.random.Generator(np.random.Philox(_Key(key))) for key in keys]  # type: ignore[arg-type]

    def _draw(self, like: Tensor, method: str) -> Tensor:
        if len(like) != len(self.indices):
            raise ValueError(f"noise for {len(self.indices)} images, asked for {len(like)}")
        drawn = np.empty((len(like), math.prod(like.shape[1:])), dtype=np.float32)
        for row, stream in zip(drawn, self._streams, strict=True):
            getattr(stream, method)(out=row, dtype=np.float32)
        return torch.from_numpy(drawn).reshape(like.shape).to(like.device)

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
