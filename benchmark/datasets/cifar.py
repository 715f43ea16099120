"""CIFAR-10 and CIFAR-100, which torchvision downloads and checks."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets as torchvision_datasets
from torchvision.datasets.utils import check_integrity

from benchmark.api import Config, Problem, Split, TensorSplit, UserError, dataset, unkeyed
from benchmark.datasets.reading.file_digests import fingerprint_of
from benchmark.datasets.reading.torchvision_source import TorchvisionDataset
from benchmark.datasets.reading.user_files import suitable_targets


class CifarConfig(Config):
    """source: target that is the default source classifier."""

    source: str = unkeyed("cifar-d")


class _Cifar(TorchvisionDataset[CifarConfig], ABC):
    """32×32 RGB images in Python batches. These are pickles, so they are read only if their MD5 is right."""

    image_shape = (3, 32, 32)
    validation_size = 5000
    test_size = 10_000

    def prepare(self) -> None:
        self.source = self.config.source
        self.substitutes = suitable_targets(self.image_shape)
        self._check_existing_files()
        super().prepare()
        self.class_names = tuple(self._loaded_test.classes)

    def fetch(self) -> None:
        self._check_existing_files()  # torchvision would replace a file of the user without a message
        super().fetch()

    def _check_existing_files(self) -> None:
        for path, md5 in self._checksums.items():
            if path.is_file() and not check_integrity(str(path), md5):
                message = f"is not the {self.name} file of that name: its MD5 is not {md5}"
                hint = f"delete the folder {path.parent.name}/ to have it downloaded again"
                raise UserError(Problem(message, file=str(path), hint=hint))

    @property
    def folder(self) -> Path:
        return self.root / str(self.torchvision_class.base_folder)

    @property
    def files(self) -> Collection[Path]:
        return self._checksums

    @property
    def archives(self) -> Mapping[Path, str]:
        return {self.root / self.torchvision_class.filename: self.torchvision_class.tgz_md5}

    @property
    def hint(self) -> str:
        return (
            f"put {self.torchvision_class.filename} into {self.root}, or name the folder above "
            f"{self.folder.name}/ with --data or BENCH_DATA"
        )

    def fingerprint(self) -> str:
        return fingerprint_of({path.name: path for path in self.files})

    def load_train(self) -> Split:
        return _in_memory(self.torchvision_class(root=self.root, train=True, download=False))

    def load_test(self) -> Split:
        return _in_memory(self._loaded_test)

    @cached_property
    def _loaded_test(self) -> Any:
        return self.torchvision_class(root=self.root, train=False, download=False)

    @property
    def _checksums(self) -> dict[Path, str]:
        """All files that are read, with the MD5 that torchvision expects."""
        cls = self.torchvision_class
        entries = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
        return {self.folder / name: md5 for name, md5 in entries}


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
