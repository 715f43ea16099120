"""The base class of data sets, their splits, and the orders that define the splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.plugins.plugin import ConfigT, Plugin, named

_SPLIT_SEED = 20260101
"""Defines the validation split and the order of the test images; must never change."""

_MANY_CLASSES = 100
"""With more classes than this, the first test images are of a random sample of classes."""


class Split(ABC):
    """Labelled images; `labels` are int64, shape (N,)."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64, shape (B,)): float32 in [0, 1], shape (B, C, H, W)."""

    def subset(self, indices: Tensor) -> Split:
        """A split of the images at `indices`, in that order."""
        return _Subset(self, indices)


class TensorSplit(Split):
    """Images held in memory: uint8 (scaled by 1/255 when taken) or float32."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels.to(torch.int64)

    def take(self, indices: Tensor) -> Tensor:
        images = self.images[indices]
        return images.float().div_(255) if images.dtype == torch.uint8 else images.clone()


class EmptySplit(Split):
    """For images that a data set does not have: `take` raises UserError with `reason`."""

    def __init__(self, reason: str) -> None:
        self.labels = torch.empty(0, dtype=torch.int64)
        self._reason = reason

    def take(self, indices: Tensor) -> Tensor:
        raise UserError(self._reason)

    def subset(self, indices: Tensor) -> Split:
        return self


class _Subset(Split):
    def __init__(self, parent: Split, indices: Tensor) -> None:
        self._parent = parent
        self._indices = indices
        self.labels = parent.labels[indices]

    def take(self, indices: Tensor) -> Tensor:
        return self._parent.take(self._indices[indices])


@dataclass(frozen=True)
class Splits:
    """The splits of a data set: `train` and `validation` for `fit` of plugins, `test` for the harness only.

    `test` is in a fixed class-balanced order: its first n images are a balanced sample.
    """

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class TrainingData:
    """The data that `fit` of a plugin gets: training and validation images, moved to its device."""

    train: Split
    validation: Split
    image_shape: tuple[int, int, int]
    num_classes: int
    device: torch.device

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The training (images, labels) at `indices`."""
        return self.train.take(indices).to(self.device), self.train.labels[indices].to(self.device)

    def batches_per_epoch(self, size: int) -> int:
        """Batches in one pass over the training images, without a smaller last one, but at least 1."""
        return max(1, len(self.train) // size)

    def validation_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All validation (images, labels), in order."""
        count = len(self.validation)
        for start in range(0, count, size):
            indices = torch.arange(start, min(start + size, count))
            images, labels = self.validation.take(indices), self.validation.labels[indices]
            yield images.to(self.device), labels.to(self.device)


class Dataset(Plugin[ConfigT], ABC, Generic[ConfigT]):
    """A data set.

    Implement `prepare`, `load_train`, `load_test` and `fingerprint`. Set the attributes below in the class,
    or in `prepare` if they depend on the files. The harness calls `prepare` before all other methods except
    `download`, which it calls first if it needs the images and not only their number. It makes the splits.

    Attributes:
        image_shape: (C, H, W) of the images.
        class_names: The names of the classes 0, 1, …
        source: The name of the target that is the default source classifier. If it is None, a grid must
            name one for defenses that are trained.
        validation_size: How many training images are held out: a number of images (int), with each class
            represented as equally as possible, or a share of each class (float).
        test_size: The number of test images, if it is the same for every copy of the data set. A dry run
            uses it when the files are missing; `source` and `substitutes` must then not depend on files.
        substitutes: Targets that suit these images. An attacker trains one of them as a substitute,
            another one than the target.
    """

    image_shape: tuple[int, int, int]
    class_names: Sequence[str]
    source: str | None
    validation_size: int | float
    test_size: int | None = None
    substitutes: Sequence[str] = ()

    def __init__(self, config: ConfigT, root: Path) -> None:
        super().__init__(config)
        self.root = root

    def download(self) -> None:
        """Download missing files, if the data set is published; UserError with their names if that fails."""

    @abstractmethod
    def prepare(self) -> None:
        """Check the files and set attributes; must not download, since a dry run calls this too.

        Raises:
            MissingImagesError: Files are missing; names them.
            UserError: Files have another content than they should; names them.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over the content; changes with any image or label."""

    @abstractmethod
    def load_train(self) -> Split:
        """All training images, including those for validation."""

    @abstractmethod
    def load_test(self) -> Split:
        """All test images, in the data set's own order."""

    def splits(self) -> Splits:
        """The three splits, the same on every machine; UserError if a label is out of range."""
        training, test = self.load_train(), self.load_test()
        self._check_labels(training.labels, "training")
        self._check_labels(test.labels, "test")
        if isinstance(self.validation_size, int):
            order, held_out = class_balanced_order(training.labels), self.validation_size
        else:
            order, count = proportional_order(training.labels), len(training)
            held_out = min(max(1, round(self.validation_size * count)), count - 1) if count else 0
        return Splits(
            train=training.subset(order[held_out:].sort().values),
            validation=training.subset(order[:held_out]),
            test=test.subset(class_balanced_order(test.labels)),
        )

    def _check_labels(self, labels: Tensor, which: str) -> None:
        classes = len(self.class_names)
        wrong = ((labels < 0) | (labels >= classes)).nonzero()
        if len(wrong):
            index = int(wrong[0])
            raise UserError(
                f"dataset {self.name}: label {int(labels[index])} of {which} image {index} is out of range: "
                f"there are {classes} classes, 0 to {classes - 1}",
                hint=f"its files are in {self.root}",
            )


def class_balanced_order(labels: Tensor) -> Tensor:
    """A fixed permutation whose every prefix contains each class as equally often as possible."""
    # numpy guarantees that the streams of RandomState never change; for newer generators it does not.
    random = np.random.RandomState(_SPLIT_SEED)
    queues = [random.permutation(np.flatnonzero(labels.numpy() == label)) for label in np.unique(labels)]
    if len(queues) > _MANY_CLASSES:
        queues = [queues[turn] for turn in random.permutation(len(queues))]
    rounds = max((len(queue) for queue in queues), default=0)
    turns = [queue[turn] for turn in range(rounds) for queue in queues if turn < len(queue)]
    return torch.tensor(np.array(turns, dtype=np.int64))


def proportional_order(labels: Tensor) -> Tensor:
    """A fixed permutation whose every prefix contains about the same share of each class."""
    random = np.random.RandomState(_SPLIT_SEED)
    tie_breaks = random.permutation(len(labels)).astype(np.float64)
    progress = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        progress[members] = (np.arange(len(members)) + 0.5) / len(members)
    return torch.from_numpy(np.lexsort((tie_breaks, progress)).astype(np.int64))


DatasetT = TypeVar("DatasetT", bound=type[Dataset[Any]])


def dataset(name: str) -> Callable[[DatasetT], DatasetT]:
    """Register the decorated `Dataset` under `name`: a literal, since it is read from the source text."""
    return named("dataset", Dataset, name)
