"""Data sets that torchvision downloads, unpacks and reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic

from torchvision.datasets.utils import check_integrity

from benchmark.api import ConfigT, Dataset, MissingImagesError, Problem


class TorchvisionDataset(Dataset[ConfigT], ABC, Generic[ConfigT]):
    """A data set that torchvision has a class for. Archives that the user already has are unpacked."""

    torchvision_class: ClassVar[Any]

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder of the unpacked files."""

    @property
    @abstractmethod
    def files(self) -> Collection[Path]:
        """Paths of all files that torchvision unpacks; if one is missing, the archives are unpacked again."""

    @property
    @abstractmethod
    def archives(self) -> Mapping[Path, str]:
        """The paths at which torchvision expects the archives, with the MD5 of each."""

    @property
    @abstractmethod
    def hint(self) -> str:
        """Tells the user which files to put where."""

    def download(self) -> None:
        if not self._is_complete:
            self.fetch()

    def prepare(self) -> None:
        if not self._is_complete:
            if not all(check_integrity(str(path), md5) for path, md5 in self.archives.items()):
                raise self._missing()
            self.fetch()  # no archive is missing, so nothing is downloaded

    @property
    def _is_complete(self) -> bool:
        return all(path.is_file() for path in self.files)

    def fetch(self) -> None:
        """Let torchvision unpack the archives and download those that are missing."""
        try:
            self.torchvision_class(root=self.root, train=False, download=True)
        # torchvision raises URLError, RuntimeError or OSError, depending on the failure
        except (OSError, RuntimeError) as error:
            raise self._missing(f" and they cannot be downloaded ({error})") from error

    def _missing(self, reason: str = "") -> MissingImagesError:
        message = f"{self.name}: no images under {self.folder}{reason}"
        return MissingImagesError(Problem(message, hint=self.hint))
