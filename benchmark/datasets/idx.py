"""MNIST and Fashion-MNIST through torchvision, from a local folder or downloaded."""

from __future__ import annotations

import hashlib
from abc import ABC
from pathlib import Path
from typing import Any, ClassVar

from torchvision import datasets as torchvision_datasets

from benchmark.datasets.contract import Dataset, TensorSplit, dataset
from benchmark.errors import MissingImagesError, Problem
from benchmark.plugin import Config

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class _Idx(Dataset[Config], ABC):
    """28×28 grey images in the four IDX files of MNIST."""

    image_shape = (1, 28, 28)
    source = "mnist-c"
    substitutes = ("mnist-c", "mnist-a")
    validation_size = 5000
    test_size = 10_000
    torchvision_class: ClassVar[Any]

    def download(self) -> None:
        if self._complete:
            return
        try:
            self.torchvision_class(root=self.root, train=True, download=True)
        # torchvision raises URLError, RuntimeError or OSError, depending on what went wrong where
        except (OSError, RuntimeError) as error:
            raise self._not_at_hand(f" and they cannot be downloaded ({error})") from error

    def prepare(self) -> None:
        if not self._complete:
            raise self._not_at_hand()

    @property
    def _complete(self) -> bool:
        return all((self._folder / name).is_file() for name in _FILES)

    def _not_at_hand(self, why: str = "") -> MissingImagesError:
        return MissingImagesError(
            Problem(
                f"{self.name}: no images under {self._folder}{why}",
                hint=f"put {', '.join(_FILES)} (unpacked) into {self._folder}, or name the folder above "
                f"{self._folder.parent.name}/ with --data or BENCH_DATA",
            )
        )

    def fingerprint(self) -> str:
        content = hashlib.sha256()
        for name in _FILES:
            content.update((self._folder / name).read_bytes())
        return content.hexdigest()

    def load_train(self) -> TensorSplit:
        return self._load(train=True)

    def load_test(self) -> TensorSplit:
        return self._load(train=False)

    @property
    def _folder(self) -> Path:
        return self.root / str(self.torchvision_class.__name__) / "raw"

    def _load(self, *, train: bool) -> TensorSplit:
        loaded = self.torchvision_class(root=self.root, train=train, download=False)
        return TensorSplit(loaded.data.unsqueeze(1), loaded.targets)


@dataset("mnist")
class Mnist(_Idx):
    """MNIST handwritten digits, 28×28 grey: 55,000 training, 5,000 validation, 10,000 test images."""

    class_names = tuple(str(digit) for digit in range(10))
    torchvision_class = torchvision_datasets.MNIST


@dataset("fashion-mnist")
class FashionMnist(_Idx):
    """Fashion-MNIST, 28×28 grey: 55,000 training, 5,000 validation, 10,000 test images."""

    class_names = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    torchvision_class = torchvision_datasets.FashionMNIST
