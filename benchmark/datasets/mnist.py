"""MNIST and Fashion-MNIST, from a local folder or downloaded by torchvision."""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import Tensor
from torchvision import datasets as torchvision_datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from benchmark.api import Config, Problem, TensorSplit, UserError, dataset, format_exception
from benchmark.datasets.reading.torchvision_source import TorchvisionDataset

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class _Idx(TorchvisionDataset[Config], ABC):
    """28×28 grey images in the four IDX files of MNIST."""

    image_shape = (1, 28, 28)
    source = "mnist-c"
    substitutes = ("mnist-c", "mnist-a")
    validation_size = 5000
    test_size = 10_000

    @property
    def folder(self) -> Path:
        return self.root / str(self.torchvision_class.__name__) / "raw"

    @property
    def files(self) -> Collection[Path]:
        return [self.folder / name for name in _FILES]

    @property
    def archives(self) -> Mapping[Path, str]:
        return {self.folder / name: md5 for name, md5 in self.torchvision_class.resources}

    @property
    def hint(self) -> str:
        return (
            f"put {', '.join(_FILES)} (unpacked) into {self.folder}, or name the folder above "
            f"{self.folder.parent.name}/ with --data or BENCH_DATA"
        )

    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(path.read_bytes() for path in self.files)).hexdigest()

    def load_train(self) -> TensorSplit:
        return self._load(*_FILES[:2])

    def load_test(self) -> TensorSplit:
        return self._load(*_FILES[2:])

    def _load(self, images_name: str, labels_name: str) -> TensorSplit:
        images_path, labels_path = self.folder / images_name, self.folder / labels_name
        images, labels = _read(images_path, read_image_file), _read(labels_path, read_label_file)
        if images.shape[1:] != self.image_shape[1:]:
            raise _wrong(images_path, f"holds images of {tuple(images.shape[1:])}")
        if len(images) != len(labels):
            problem = f"holds {len(labels)} labels for the {len(images)} images of {images_name}"
            raise _wrong(labels_path, problem)
        if (labels >= len(self.class_names)).any():  # bytes are never below 0
            raise _wrong(labels_path, "holds labels that are not 0 to 9")
        return TensorSplit(images.unsqueeze(1), labels)


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    try:
        return reader(str(path))
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torchvision's reader raises many types of exceptions
        raise _wrong(path, f"is damaged, or no IDX file: {format_exception(error)}") from error


def _wrong(path: Path, problem: str) -> UserError:
    return UserError(Problem(problem, file=str(path)))


@dataset("mnist")
class Mnist(_Idx):
    """MNIST handwritten digits, 28×28 grey: 55,000 training, 5,000 validation, 10,000 test images."""

    class_names = tuple(str(digit) for digit in range(10))
    torchvision_class = torchvision_datasets.MNIST


@dataset("fashion-mnist")
class FashionMnist(_Idx):
    """Fashion-MNIST, 28×28 grey: 55,000 training, 5,000 validation, 10,000 test images."""

    class_names = (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    torchvision_class = torchvision_datasets.FashionMNIST
