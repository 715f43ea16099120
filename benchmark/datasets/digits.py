"""scikit-learn's bundled handwritten digits: small real images that need no network."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from benchmark.datasets.contract import Dataset, TensorSplit, class_balanced_order, dataset
from benchmark.plugin import Config

_TEST_SIZE = 500


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
        small = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16.0
        # 8-bit levels: real images have them, and bilinear weights differ in the last bit over CPUs.
        large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
        images = large.mul(255).round().to(torch.uint8)
        labels = torch.from_numpy(bunch.target).to(torch.int64)
        order = class_balanced_order(labels)
        test, rest = order[:_TEST_SIZE], order[_TEST_SIZE:]
        return TensorSplit(images[rest], labels[rest]), TensorSplit(images[test], labels[test])
