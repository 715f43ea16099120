"""Data sets of image files in class folders: listed when opened, decoded when used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

import torch
from torch import Tensor

from benchmark.datasets.contract import Dataset, NoImages, Split
from benchmark.datasets.own import find
from benchmark.datasets.pictures import Preparation
from benchmark.datasets.streaming import StreamedSplit
from benchmark.datasets.tree import Tree, open_tree
from benchmark.plugin import ConfigT


@dataclass
class Listing:
    """Names of images in a tree, and their labels."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, images: Mapping[str, Sequence[str]], labels: Mapping[str, int]) -> Listing:
        """All images of class folders, with the label of each folder's name."""
        listing = cls()
        for name, members in images.items():
            listing.names += members
            listing.labels += [labels[name]] * len(members)
        return listing

    def subset(self, indices: Tensor) -> Listing:
        """The images at `indices`, in that order."""
        chosen = indices.tolist()
        return Listing([self.names[i] for i in chosen], [self.labels[i] for i in chosen])


@dataclass
class Found:
    """What there is to read: class names, and images to train and to test with."""

    class_names: Sequence[str]
    train: Listing
    test: Listing
    beside: Sequence[str] = ()
    """Other files that labels depend on."""


class ClassFolders(Dataset[ConfigT], ABC, Generic[ConfigT]):
    """A data set whose images are files in class folders."""

    _tree: Tree
    _found: Found
    _preparation: Preparation

    @abstractmethod
    def look(self, tree: Tree) -> Found:
        """Find the images.

        Raises:
            UserError: They are not laid out as they should be.
        """

    @abstractmethod
    def preparation(self) -> Preparation:
        """What is done to every image."""

    def open(self, path: str) -> None:
        """Find the images below `path`, and learn their shape from the first one."""
        self._tree = open_tree(find(path, self.root))
        self._found = self.look(self._tree)
        self._preparation = self.preparation()
        self.class_names = tuple(self._found.class_names)
        first = (self._found.train.names or self._found.test.names)[0]
        self.image_shape = self._preparation.shape_of(self._tree.read(first), self._tree.place(first))

    def fingerprint(self) -> str:
        found = self._found
        return self._tree.fingerprint([*found.train.names, *found.test.names, *found.beside])

    def load_train(self) -> Split:
        if not self._found.train.names:
            return NoImages(f"dataset {self.name}: {self._tree.path} has no images to train with")
        return self._split(self._found.train)

    def load_test(self) -> Split:
        return self._split(self._found.test)

    def _split(self, listing: Listing) -> Split:
        def decode(index: int) -> Tensor:
            name = listing.names[index]
            return self._preparation.decode(self._tree.read(name), self._tree.place(name), self.image_shape)

        return StreamedSplit(torch.tensor(listing.labels), self.image_shape, decode)
