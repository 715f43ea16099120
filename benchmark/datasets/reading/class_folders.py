"""Data sets of image files in class folders: listed when opened, decoded when used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

import torch
from torch import Tensor

from benchmark.api import ConfigT, Dataset, EmptySplit, Split
from benchmark.datasets.reading.decoding import Preprocessing
from benchmark.datasets.reading.file_tree import FileTree, open_tree
from benchmark.datasets.reading.streaming import StreamedSplit
from benchmark.datasets.reading.user_files import locate


@dataclass
class LabelledFiles:
    """Names of image files in a file tree, and their labels."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    @classmethod
    def of_classes(cls, images: Mapping[str, Sequence[str]], labels: Mapping[str, int]) -> LabelledFiles:
        """All images of the classes; both mappings have the class names as keys."""
        files = cls()
        for name, members in images.items():
            files.names += members
            files.labels += [labels[name]] * len(members)
        return files

    def subset(self, indices: Tensor) -> LabelledFiles:
        """The images at `indices`, in that order."""
        chosen = indices.tolist()
        return LabelledFiles([self.names[i] for i in chosen], [self.labels[i] for i in chosen])


@dataclass
class DatasetFiles:
    """The class names and image files of a data set; `metadata` are other files that labels depend on."""

    class_names: Sequence[str]
    train: LabelledFiles
    test: LabelledFiles
    metadata: Sequence[str] = ()


class ClassFolders(Dataset[ConfigT], ABC, Generic[ConfigT]):
    """A data set whose images are files in class folders."""

    _tree: FileTree
    _files: DatasetFiles
    _preprocessing: Preprocessing

    @abstractmethod
    def list_files(self, tree: FileTree) -> DatasetFiles:
        """Find the images of each class and split; UserError if the folders are laid out otherwise."""

    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """How every image is resized and converted."""

    def open(self, path: str) -> None:
        """List the images below `path`, and set the image shape from the first one."""
        self._tree = open_tree(locate(path, self.root))
        self._files = self.list_files(self._tree)
        self._preprocessing = self.preprocessing()
        self.class_names = tuple(self._files.class_names)
        first = (self._files.train.names or self._files.test.names)[0]
        self.image_shape = self._preprocessing.shape_of(self._tree.read(first), self._tree.full_path(first))

    def fingerprint(self) -> str:
        files = self._files
        return self._tree.fingerprint([*files.train.names, *files.test.names, *files.metadata])

    def load_train(self) -> Split:
        if not self._files.train.names:
            return EmptySplit(f"dataset {self.name}: {self._tree.path} has no images to train with")
        return self._split(self._files.train)

    def load_test(self) -> Split:
        return self._split(self._files.test)

    def _split(self, files: LabelledFiles) -> Split:
        def decode(index: int) -> Tensor:
            name = files.names[index]
            content, path = self._tree.read(name), self._tree.full_path(name)
            return self._preprocessing.decode(content, path, self.image_shape)

        return StreamedSplit(torch.tensor(files.labels), self.image_shape, decode)
