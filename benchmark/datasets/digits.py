"""scikit-learn's bundled handwritten digits: small real images that need no network."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmark.datasets.contract import Dataset, TensorSplit, class_balanced_order, dataset
from benchmark.plugin import Config

_TEST_SIZE = 500
_SIDE, _LARGE_SIDE = 8, 28
_LEVELS = 16
"""The highest value of a pixel in the source."""


@dataset("digits")
class Digits(Dataset[Config]):
    """1,797 handwritten digits (UCI Optical Recognition), 8×8 enlarged bilinearly to 28×28.

    1,097 training, 200 validation and 500 test images, class-balanced, fixed.
    """

    image_shape = (1, 28, 28)
    class_names = tuple(str(digit) for digit in range(10))
    source = "mnist-c"
    substitutes = ("mnist-c", "mnist-a")
    validation_size = 200

    def prepare(self) -> None:
        """Nothing to do: the images come with scikit-learn."""

    def fingerprint(self) -> str:
        everything, _ = self._halves
        test = self.load_test()
        content = hashlib.sha256()
        for array in (everything.images, everything.labels, test.images, test.labels):
            content.update(np.ascontiguousarray(array.numpy()).tobytes())
        return content.hexdigest()

    def load_train(self) -> TensorSplit:
        return self._halves[0]

    def load_test(self) -> TensorSplit:
        return self._halves[1]

    @cached_property
    def _halves(self) -> tuple[TensorSplit, TensorSplit]:
        bunch = load_digits()
        images = torch.from_numpy(_enlarged(bunch.images.astype(np.int64)))[:, None]
        labels = torch.from_numpy(bunch.target).to(torch.int64)
        order = class_balanced_order(labels)
        test, rest = order[:_TEST_SIZE], order[_TEST_SIZE:]
        return TensorSplit(images[rest], labels[rest]), TensorSplit(images[test], labels[test])


def _enlarged(small: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images (N, 8, 8) of 0 to 16, enlarged bilinearly to (N, 28, 28) of 0 to 255, rounded half up.

    In whole numbers: floating point rounds otherwise on other processors, and the images name all results.
    """
    weights = _bilinear_weights()
    large = np.einsum("ri,nij,cj->nrc", weights, small, weights)
    whole = _LEVELS * int(weights[0].sum()) ** 2
    rounded: NDArray[np.uint8] = ((2 * 255 * large + whole) // (2 * whole)).astype(np.uint8)
    return rounded


def _bilinear_weights() -> NDArray[np.int64]:
    """How much of each source pixel goes into each enlarged one (28, 8), in 14ths.

    Corners are not aligned: pixel r lies at (r + 1/2) · 8/28 − 1/2 = (4 r − 5) / 14 of the source.
    """
    whole = 14
    places = np.clip(4 * np.arange(_LARGE_SIDE) - 5, 0, whole * (_SIDE - 1))
    low, part = places // whole, places % whole
    weights = np.zeros((_LARGE_SIDE, _SIDE), dtype=np.int64)
    np.add.at(weights, (np.arange(_LARGE_SIDE), low), whole - part)
    np.add.at(weights, (np.arange(_LARGE_SIDE), np.minimum(low + 1, _SIDE - 1)), part)
    return weights
