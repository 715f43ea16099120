"""Classes of a data set that have no images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from benchmark.datasets.contract import Dataset

_SHOWN = 5
"""Names of classes in a message, before the rest is counted."""


def empty_classes(dataset: Dataset[Any], test: Tensor) -> Iterator[str]:
    """Which classes of an opened data set have no images, one sentence for each part that lacks some.

    `test` are its test labels. The training labels are only read if some class has no test image, or if the
    files are a user's own.
    """
    names = dataset.class_names
    without = {"test ": _absent(names, test)}
    if without["test "] or dataset.test_size is None:
        training = dataset.load_train().labels
        if len(training):  # a data set may have test images alone
            without["training "] = _absent(names, training)
            without = {
                "": [name for name in without["test "] if name in without["training "]],
                **without,
            }
    common = set(without.get("", ()))
    for part, absent in without.items():
        shown = [repr(name) for name in absent if part == "" or name not in common]
        if shown:
            others = f" and {len(shown) - _SHOWN} others" if len(shown) > _SHOWN else ""
            yield f"no {part}images of class {', '.join(shown[:_SHOWN])}{others}, of {len(names)} classes"


def _absent(names: Sequence[str], labels: Tensor) -> list[str]:
    present = set(labels.unique().tolist())  # type: ignore[no-untyped-call]
    return [name for label, name in enumerate(names) if label not in present]
