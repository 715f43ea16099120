"""What a data set owes the harness: three splits, a fingerprint, and its own default source classifier."""

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
from benchmark.plugin import ConfigT, Plugin, named

_SPLIT_SEED = 20260101
"""Fixes the validation split and the order of the test images, for ever."""

_MANY_CLASSES = 100
"""From more classes on than this, the first test images are of a random sample of classes."""


class Split(ABC):
    """Labelled images. `take` gives float32 images in [0, 1], NCHW; `labels` are int64, shape (N,)."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64, shape (B,)): float32 in [0, 1], shape (B, C, H, W)."""

    def subset(self, indices: Tensor) -> Split:
        """The images at `indices`, as a split of their own, in that order."""
        return _Subset(self, indices)


class TensorSplit(Split):
    """Images held in memory: uint8 (scaled by 1/255 when taken) or float32."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels.to(torch.int64)

    def take(self, indices: Tensor) -> Tensor:
        images = self.images[indices]
        return images.float().div_(255) if images.dtype == torch.uint8 else images.clone()


class NoImages(Split):
    """Stands for images that a data set does not have: empty, and asking for any raises `reason`."""

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
    """`train` and `validation` for plugins to learn and tune on; `test` for the harness alone.

    `test` is in the one fixed class-balanced order: the first n images are a balanced sample.
    """

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class TrainingData:
    """What a plugin's `fit` sees: training and validation images, on the device it trains on."""

    train: Split
    validation: Split
    image_shape: tuple[int, int, int]
    num_classes: int
    device: torch.device

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The training (images, labels) at `indices`."""
        return self.train.take(indices).to(self.device), self.train.labels[indices].to(self.device)

    def batches_per_epoch(self, size: int) -> int:
        """Batches in one pass over the training images, the smaller rest left out when there are others."""
        return max(1, len(self.train) // size)

    def validation_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All validation (images, labels), in order."""
        count = len(self.validation)
        for start in range(0, count, size):
            chosen = torch.arange(start, min(start + size, count))
            images, labels = self.validation.take(chosen), self.validation.labels[chosen]
            yield images.to(self.device), labels.to(self.device)


class Dataset(Plugin[ConfigT], ABC, Generic[ConfigT]):
    """A data set plugin.

    Implement `prepare`, `load_train`, `load_test` and `fingerprint`, and state the facts below: in the
    class, or in `prepare` where the files tell. `prepare` is called before anything else is asked, after
    `download` where the images are wanted and not only counted. The harness makes the splits.

    Facts:
        image_shape: (C, H, W) of the images.
        class_names: What the labels 0, 1, … stand for.
        source: The name of the target that serves as the default source classifier; None where there is
            none, and then the grid must name one for defenses that are trained.
        validation_size: How many of the training images are held out: a number of images, as equally as
            possible of each class, or a share of each class.
        test_size: How many test images every copy of it has, where that is so: what a dry run counts by
            before the files are there. `source` and `substitutes` must then not need the files either.
    """

    image_shape: tuple[int, int, int]
    class_names: Sequence[str]
    source: str | None
    validation_size: int | float
    test_size: int | None = None
    substitutes: Sequence[str] = ()
    """Targets that suit its images, of which an attacker without the target trains one of another name."""

    def __init__(self, config: ConfigT, root: Path) -> None:
        super().__init__(config)
        self.root = root

    def download(self) -> None:
        """Fetch files that are not there; a data set that is published nowhere leaves it at nothing.

        Raises:
            UserError: They cannot be had; names the files.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Look at the files, and download none: a dry run prepares too.

        Raises:
            MissingImagesError: They are not there; names the files.
            UserError: They are not what they should be; names the files.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over the content; changes when any image or label does."""

    @abstractmethod
    def load_train(self) -> Split:
        """All training images, validation included."""

    @abstractmethod
    def load_test(self) -> Split:
        """All test images, in the data set's own order."""

    def splits(self) -> Splits:
        """The three splits, the same on every machine.

        Raises:
            UserError: A label is none of the classes.
        """
        everything, test = self.load_train(), self.load_test()
        self._check(everything.labels, "training")
        self._check(test.labels, "test")
        order, held_out = self._held_out(everything.labels)
        return Splits(
            train=everything.subset(order[held_out:].sort().values),
            validation=everything.subset(order[:held_out]),
            test=test.subset(class_balanced_order(test.labels)),
        )

    def _held_out(self, labels: Tensor) -> tuple[Tensor, int]:
        """An order of the training images, and how many of its first ones are for validation."""
        if isinstance(self.validation_size, int):
            return class_balanced_order(labels), self.validation_size
        count = round(self.validation_size * len(labels))
        return proportional_order(labels), min(max(1, count), len(labels) - 1) if len(labels) else 0

    def _check(self, labels: Tensor, which: str) -> None:
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
    """A fixed permutation in which every prefix holds each class as equally often as possible."""
    # RandomState's streams are frozen by numpy's compatibility policy; newer generators' are not.
    random = np.random.RandomState(_SPLIT_SEED)
    queues = [random.permutation(np.flatnonzero(labels.numpy() == label)) for label in np.unique(labels)]
    if len(queues) > _MANY_CLASSES:
        queues = [queues[turn] for turn in random.permutation(len(queues))]
    rounds = max((len(queue) for queue in queues), default=0)
    turns = [queue[turn] for turn in range(rounds) for queue in queues if turn < len(queue)]
    return torch.tensor(np.array(turns, dtype=np.int64))


def proportional_order(labels: Tensor) -> Tensor:
    """A fixed permutation in which every prefix holds about the same share of each class."""
    random = np.random.RandomState(_SPLIT_SEED)
    places = random.permutation(len(labels)).astype(np.float64)  # decides between equals
    progress = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        progress[members] = (np.arange(len(members)) + 0.5) / len(members)
    return torch.from_numpy(np.lexsort((places, progress)).astype(np.int64))


DatasetT = TypeVar("DatasetT", bound=type[Dataset[Any]])


def dataset(name: str) -> Callable[[DatasetT], DatasetT]:
    """Register the decorated `Dataset` under `name` (a literal: it is read without importing)."""
    return named("dataset", Dataset, name)
