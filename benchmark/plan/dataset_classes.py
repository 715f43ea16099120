"""Finding classes of a data set that have no images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from benchmark.api.dataset import Dataset

_SHOWN = 5
"""Number of class names in a message; the rest are only counted."""


def empty_classes(dataset: Dataset[Any], test: Tensor) -> Iterator[str]:
    """One message per part of an opened data set in which some classes have no images.

    `test` has its test labels. The training labels are read only if a class has no test image, or if the
    files are a user's own.
    """
    names = dataset.class_names
    without = {"test ": _missing(names, test)}
    if without["test "] or dataset.test_size is None:
        training = dataset.load_train().labels
        if len(training):  # a data set may have test images only
            without["training "] = _missing(names, training)
            without = {"": [name for name in without["test "] if name in without["training "]], **without}
    common = without.get("", ())
    for part, missing in without.items():
        shown = [repr(name) for name in missing if part == "" or name not in common]
        if shown:
            others = f" and {len(shown) - _SHOWN} others" if len(shown) > _SHOWN else ""
            yield f"no {part}images of class {', '.join(shown[:_SHOWN])}{others}, of {len(names)} classes"


def _missing(names: Sequence[str], labels: Tensor) -> list[str]:
    present = set(labels.unique().tolist())  # type: ignore[no-untyped-call]
    return [name for label, name in enumerate(names) if label not in present]
