"""CIFAR-10 and CIFAR-100 through torchvision, which checks the files and downloads them."""

from __future__ import annotations

from abc import ABC
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision import datasets as torchvision_datasets
from torchvision.datasets.utils import check_integrity

from benchmark.datasets.content import fingerprint_of
from benchmark.datasets.contract import Dataset, Split, TensorSplit, dataset
from benchmark.datasets.own import suited_to
from benchmark.errors import MissingImagesError, Problem, UserError
from benchmark.plugin import Config, apart


class CifarConfig(Config):
    """source: target that is the default source classifier."""

    source: str = apart("cifar-d")


class _Cifar(Dataset[CifarConfig], ABC):
    """32×32 RGB images in torchvision's Python batches, which are read once their checksums are right."""

    image_shape = (3, 32, 32)
    validation_size = 5000
    test_size = 10_000
    torchvision_class: ClassVar[Any]

    def download(self) -> None:
        if all(path.is_file() for path in self._files):
            return  # torchvision would replace one that is damaged; `prepare` tells of it
        try:
            self.torchvision_class(root=self.root, train=False, download=True)
        # torchvision raises URLError, RuntimeError or OSError, depending on what went wrong where
        except (OSError, RuntimeError) as error:
            raise self._not_at_hand(f" and they cannot be downloaded ({error})") from error

    def prepare(self) -> None:
        self.source = self.config.source
        self.substitutes = suited_to(self.image_shape)
        there = [path for path in self._files if path.is_file()]
        for path in there:
            if not check_integrity(str(path), self._files[path]):
                raise UserError(
                    Problem(
                        f"is not the {self.name} file of that name: its MD5 is not {self._files[path]}",
                        file=str(path),
                        hint=f"delete the folder {path.parent.name}/ to have it downloaded again",
                    )
                )
        if len(there) < len(self._files):
            raise self._not_at_hand()
        self.class_names = tuple(self._loaded_test.classes)

    def _not_at_hand(self, why: str = "") -> MissingImagesError:
        return MissingImagesError(
            Problem(
                f"{self.name}: no images under {self._folder}{why}",
                hint=f"put {self.torchvision_class.filename} into {self.root}, or name the folder above "
                f"{self._folder.name}/ with --data or BENCH_DATA",
            )
        )

    def fingerprint(self) -> str:
        return fingerprint_of({path.name: path for path in self._files})

    def load_train(self) -> Split:
        return _in_memory(self.torchvision_class(root=self.root, train=True, download=False))

    def load_test(self) -> Split:
        return _in_memory(self._loaded_test)

    @cached_property
    def _loaded_test(self) -> Any:
        return self.torchvision_class(root=self.root, train=False, download=False)

    @property
    def _folder(self) -> Path:
        return self.root / str(self.torchvision_class.base_folder)

    @property
    def _files(self) -> dict[Path, str]:
        """All files that are read, with the MD5 that torchvision asks of each."""
        kind = self.torchvision_class
        named = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        return {self._folder / name: md5 for name, md5 in named}


def _in_memory(loaded: Any) -> TensorSplit:
    images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
    return TensorSplit(images, torch.tensor(loaded.targets))


@dataset("cifar10")
class Cifar10(_Cifar):
    """CIFAR-10, 32×32 RGB: 45,000 training, 5,000 validation, 10,000 test images, 10 classes."""

    torchvision_class = torchvision_datasets.CIFAR10


@dataset("cifar100")
class Cifar100(_Cifar):
    """CIFAR-100, 32×32 RGB: 45,000 training, 5,000 validation, 10,000 test images, 100 fine classes."""

    torchvision_class = torchvision_datasets.CIFAR100
