"""The handwritten digits that come with scikit-learn: small real images without a download."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmark.api import Config, Dataset, TensorSplit, class_balanced_order, dataset

_TEST_SIZE = 500
_SIDE, _LARGE_SIDE = 8, 28


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
        """Does nothing: the images come with scikit-learn."""

    def fingerprint(self) -> str:
        arrays = (array for split in self._train_and_test for array in (split.images, split.labels))
        return hashlib.sha256(b"".join(array.numpy().tobytes() for array in arrays)).hexdigest()

    def load_train(self) -> TensorSplit:
        return self._train_and_test[0]

    def load_test(self) -> TensorSplit:
        return self._train_and_test[1]

    @cached_property
    def _train_and_test(self) -> tuple[TensorSplit, TensorSplit]:
        bunch = load_digits()
        images = torch.from_numpy(_enlarged(bunch.images.astype(np.int64)))[:, None]
        labels = torch.from_numpy(bunch.target).to(torch.int64)
        order = class_balanced_order(labels)
        test, rest = order[:_TEST_SIZE], order[_TEST_SIZE:]
        return TensorSplit(images[rest], labels[rest]), TensorSplit(images[test], labels[test])


def _enlarged(small: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Enlarge images (N, 8, 8) of 0 to 16 bilinearly to (N, 28, 28) of 0 to 255, rounded half up.

    In integer arithmetic, because floating point results depend on the processor and keys contain the
    fingerprint of the images.
    """
    weights = _bilinear_weights()
    large = np.einsum("ri,nij,cj->nrc", weights, small, weights)
    whole = 16 * int(weights[0].sum()) ** 2
    return np.asarray((2 * 255 * large + whole) // (2 * whole), dtype=np.uint8)


def _bilinear_weights() -> NDArray[np.int64]:
    """The weight of each source pixel in each enlarged one, shape (28, 8), in 14ths.

    Corners are not aligned: pixel r lies at (r + 1/2) · 8/28 − 1/2 = (4 r − 5) / 14 of the source.
    """
    whole = 14
    rows = np.arange(_LARGE_SIDE)
    positions = np.clip(4 * rows - 5, 0, whole * (_SIDE - 1))
    low, part = positions // whole, positions % whole
    weights = np.zeros((_LARGE_SIDE, _SIDE), dtype=np.int64)
    np.add.at(weights, (rows, low), whole - part)
    np.add.at(weights, (rows, np.minimum(low + 1, _SIDE - 1)), part)
    return weights
