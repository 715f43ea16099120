"""Data sets whose reading is recorded: what they open outside their own folders is no part of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.datasets.contract import Dataset, Split, Splits
from benchmark.opened_files import watching
from benchmark.plugin import Config


def watched(dataset: Dataset[Any]) -> AbstractContextManager[object]:
    """A context in which the code of a data set runs."""
    return watching("dataset", dataset, own=tuple(own_places(dataset.config, dataset.root)))


def own_places(config: Config, root: Path) -> Iterator[Path]:
    """The root of the data sets, and the files and folders that the parameters name."""
    return places_of(config.model_dump(), root)


def places_of(parameters: Mapping[str, Any], root: Path) -> Iterator[Path]:
    """As `own_places`, of parameters that are no configuration yet."""
    yield root
    for value in parameters.values():
        if isinstance(value, str):
            yield root / Path(value).expanduser()


def watched_splits(dataset: Dataset[Any]) -> Splits:
    """The splits of a data set, which may open files whenever images are taken."""
    with watched(dataset):
        splits = dataset.splits()
    return Splits(**{name: _WatchedSplit(split, dataset) for name, split in vars(splits).items()})


class _WatchedSplit(Split):
    def __init__(self, split: Split, dataset: Dataset[Any]) -> None:
        self.labels = split.labels
        self._split = split
        self._dataset = dataset

    def take(self, indices: Tensor) -> Tensor:
        with watched(self._dataset):
            return self._split.take(indices)
