"""Data sets that torchvision downloads, unpacks and reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torchvision.datasets.utils import check_integrity

from benchmark.datasets.contract import Dataset
from benchmark.errors import MissingImagesError, Problem
from benchmark.plugin import Config

ConfigT = TypeVar("ConfigT", bound=Config)


class Published(Dataset[ConfigT], ABC, Generic[ConfigT]):
    """A data set with a class of its own in torchvision; archives at hand are unpacked where they lie."""

    torchvision_class: ClassVar[Any]

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where the unpacked files are."""

    @property
    @abstractmethod
    def files(self) -> Collection[Path]:
        """The unpacked files."""

    @property
    @abstractmethod
    def archives(self) -> Mapping[Path, str]:
        """Where torchvision looks for what they are packed in, with the MD5 of each."""

    @property
    @abstractmethod
    def hint(self) -> str:
        """Which files to put where."""

    def download(self) -> None:
        if not self._complete:
            self.fetch()

    def prepare(self) -> None:
        if self._complete:
            return
        if not all(check_integrity(str(path), md5) for path, md5 in self.archives.items()):
            raise self._missing()
        self.fetch()  # asks nobody for an archive that is there

    @property
    def _complete(self) -> bool:
        return all(path.is_file() for path in self.files)

    def fetch(self) -> None:
        """Have torchvision unpack its archives, and download those that are not there.

        Raises:
            MissingImagesError: They cannot be had.
        """
        try:
            self.torchvision_class(root=self.root, train=False, download=True)
        # torchvision raises URLError, RuntimeError or OSError, depending on what went wrong where
        except (OSError, RuntimeError) as error:
            raise self._missing(f" and they cannot be downloaded ({error})") from error

    def _missing(self, why: str = "") -> MissingImagesError:
        return MissingImagesError(Problem(f"{self.name}: no images under {self.folder}{why}", hint=self.hint))
