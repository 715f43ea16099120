"""Access to data sets that records the files they open outside their own folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.api.dataset import Dataset, Split, Splits
from benchmark.plugins.opened_files import watching
from benchmark.plugins.plugin import Config


def watched(dataset: Dataset[Any]) -> AbstractContextManager[object]:
    """A context for running code of a data set, in which the files that it opens are recorded."""
    return watching("dataset", dataset, own=tuple(own_places(dataset.config, dataset.root)))


def own_places(config: Config, root: Path) -> Iterator[Path]:
    """Paths that a data set may open without a record: the root of the data sets, and paths in parameters."""
    return places_of(config.model_dump(), root)


def places_of(parameters: Mapping[str, Any], root: Path) -> Iterator[Path]:
    """Like `own_places`, for parameters that have not been validated yet."""
    yield root
    yield from (root / Path(value).expanduser() for value in parameters.values() if isinstance(value, str))


def watched_splits(dataset: Dataset[Any]) -> Splits:
    """The splits of a data set. Files that it opens later, when images are taken, are recorded too."""
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
