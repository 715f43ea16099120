"""The user's own arrays: images and labels in one .npz file of numpy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.api import Config, Dataset, Problem, Split, TensorSplit, UserError, dataset, param, unkeyed
from benchmark.datasets.reading.file_digests import fingerprint_of
from benchmark.datasets.reading.user_files import locate, suitable_targets

_NAMES = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


class NpzConfig(Config):
    """Where the arrays are.

    path: the file, absolute or relative to the root of the data sets.
    validation: share of the training images that is held out.
    source: target that is the default source classifier; default: mnist-c for 28×28, cifar-d for 32×32.
    """

    path: str = unkeyed(min_length=1)
    validation: float = param(0.1, gt=0, lt=1)
    source: str | None = unkeyed(None)


@dataset("npz")
class Npz(Dataset[NpzConfig]):
    """Your own arrays in an .npz file: train_images, train_labels, test_images, test_labels.

    Or x_train, y_train, x_test, y_test. Images are N×H×W, N×H×W×C or N×C×H×W with 1 or 3 channels, uint8 or
    float in [0, 1]; labels count from 0; an array class_names is optional. All arrays are kept in memory.
    """

    def prepare(self) -> None:
        self._path = locate(self.config.path, self.root)
        arrays = _Arrays(self._path)
        self._train, self._test = arrays.split(0), arrays.split(2)
        shapes = [tuple(split.images.shape[1:]) for split in (self._train, self._test)]
        if shapes[0] != shapes[1]:
            raise arrays.wrong(f"training images are {shapes[0]}, test images {shapes[1]}")
        channels, height, width = shapes[0]
        self.image_shape = (channels, height, width)
        self.class_names = arrays.class_names([self._train, self._test])
        self.substitutes = suitable_targets(self.image_shape)
        self.source = self.config.source or next(iter(self.substitutes), None)
        self.validation_size = self.config.validation

    def fingerprint(self) -> str:
        return fingerprint_of({"": self._path})

    def load_train(self) -> Split:
        return self._train

    def load_test(self) -> Split:
        return self._test


class _Arrays:
    """The arrays of a file; each method checks those that it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise self.wrong("is a single array: an .npz file with four is needed")
            with file:
                self._arrays: Mapping[str, NDArray[Any]] = {name: file[name] for name in file.files}
        # MemoryError: a damaged header may state a size that does not fit in memory
        except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise self.wrong(f"cannot be read as an .npz file: {error}") from error
        for name, array in self._arrays.items():
            if not isinstance(array, np.ndarray):
                raise self.wrong(f"holds {name}, which is no array")
        self._names = next((names for names in _NAMES if set(names) <= set(self._arrays)), ())
        if not self._names:
            wanted = " or ".join(", ".join(names) for names in _NAMES)
            present = ", ".join(self._arrays) or "none"
            raise self.wrong(f"lacks arrays: {wanted} are needed, there are {present}")

    def wrong(self, message: str, hint: str | None = None) -> UserError:
        return UserError(Problem(message, file=str(self._path), hint=hint))

    def split(self, first: int) -> TensorSplit:
        """The images and labels at positions `first` and `first` + 1 of the array names."""
        images_name, labels_name = self._names[first], self._names[first + 1]
        images, labels = self._images(images_name), self._labels(labels_name)
        if len(images) != len(labels):
            raise self.wrong(f"{images_name} has {len(images)} images, {labels_name} {len(labels)} labels")
        if not len(images):
            raise self.wrong(f"{images_name} is empty")
        return TensorSplit(torch.from_numpy(images), torch.from_numpy(labels))

    def class_names(self, splits: list[TensorSplit]) -> tuple[str, ...]:
        """The array class_names if there is one, or else the numbers up to the largest training label."""
        if "class_names" in self._arrays:
            names = tuple(str(name) for name in self._arrays["class_names"].ravel())
        else:
            first = min(int(split.labels.min()) for split in splits)
            if first > 0:
                hint = f"subtract {first} from all labels, or name all classes in an array class_names"
                raise self.wrong(f"the smallest label is {first}: labels count from 0", hint)
            names = tuple(str(label) for label in range(int(splits[0].labels.max()) + 1))
        for split, name in zip(splits, self._names[1::2], strict=True):
            wrong = ((split.labels < 0) | (split.labels >= len(names))).nonzero()
            if len(wrong):
                found = f"{name}[{int(wrong[0])}] is {int(split.labels[wrong[0]])}"
                classes = f"there are {len(names)} classes, 0 to {len(names) - 1}"
                raise self.wrong(f"{found}, out of range: {classes}")
        if len(names) < 2:
            raise self.wrong("two classes at least are needed")
        return names

    def _labels(self, name: str) -> NDArray[Any]:
        labels = self._arrays[name]
        flat = labels.ravel()
        if labels.ndim not in (1, 2) or len(flat) != len(labels):
            raise self.wrong(f"{name} is of shape {labels.shape}, not (N,)")
        if not np.issubdtype(labels.dtype, np.integer):
            raise self.wrong(f"{name} is of {labels.dtype}: labels are whole numbers")
        return flat.astype(np.int64)

    def _images(self, name: str) -> NDArray[Any]:
        """The array with shape (N, C, H, W), uint8 or float32."""
        images = self._arrays[name]
        if images.ndim == 3:
            images = images[:, None]
        elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        elif images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[3] in (1, 3):
            forms = "(N, H, W), (N, H, W, C) or (N, C, H, W)"
            raise self.wrong(f"{name} is of shape {images.shape}, not {forms} with 1 or 3 channels")
        if images.dtype == np.uint8:
            self._refuse_scaled_twice(name, images, 1)
            return np.ascontiguousarray(images)
        if not np.issubdtype(images.dtype, np.floating):
            raise self.wrong(f"{name} is of {images.dtype}: images are uint8, or float in [0, 1]")
        outside = ~((images >= 0) & (images <= 1)).reshape(len(images), -1).all(axis=1)
        if outside.any():
            raise self.wrong(f"{name}[{outside.argmax()}] has values that are not in [0, 1]")
        self._refuse_scaled_twice(name, images, 1 / 255)
        return np.ascontiguousarray(images, dtype=np.float32)

    def _refuse_scaled_twice(self, name: str, images: NDArray[Any], limit: float) -> None:
        """Refuse images without a value above `limit`: they were probably divided by 255 twice."""
        if images.size and images.max() <= limit:
            wanted = "0 to 255" if images.dtype == np.uint8 else "0 to 1"
            highest = f"{images.max():.3g}"
            raise self.wrong(f"{name} is of {images.dtype}, {wanted}, but no value is above {highest}")
