"""The user's own images: a folder for each class, in a directory or in a zip."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from typing_extensions import Self

from benchmark.api import Config, Problem, UserError, dataset, param, proportional_order, unkeyed
from benchmark.datasets.reading.class_folders import ClassFolders, DatasetFiles, LabelledFiles
from benchmark.datasets.reading.decoding import Preprocessing
from benchmark.datasets.reading.file_tree import FileTree, images_by_class, join
from benchmark.datasets.reading.user_files import suitable_targets

_TRAIN_FOLDER = "train"
_TEST_FOLDERS = ("test", "val")
_SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})


class FolderConfig(Config):
    """Where the images are, and how they are resized, converted and split.

    path: the directory or the zip, absolute or relative to the root of the data sets.
    size: height and width. The shorter side is scaled to `resize` (bilinear, antialiased; default:
        `size`), then the centre is cropped. Default: no scaling; all images must have the same size.
    channels: 1 makes colour images grey, 3 repeats the values of grey ones; default: as in the first
        image, and an image of another kind is an error.
    test: share of each class for testing, if there are no folders train/ and test/ (default 0.2); with 1
        there are no training images.
    validation: share of the training images that is held out.
    source: target that is the default source classifier; default: mnist-c for 28×28, cifar-d for 32×32.
    """

    path: str = unkeyed(min_length=1)
    size: int | None = param(None, ge=1)
    resize: int | None = param(None, ge=1)
    channels: Literal[1, 3] | None = param(None)
    test: float | None = param(None, gt=0, le=1)
    validation: float = param(0.1, gt=0, lt=1)
    source: str | None = unkeyed(None)

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        if self.resize is not None and (self.size is None or self.resize < self.size):
            raise ValueError("`resize` needs a `size`, the size of the centre crop, that is not larger")
        return self


@dataset("folder")
class Folder(ClassFolders[FolderConfig]):
    """Your own images: a directory, or a zip of one, with a folder for each class.

    Either `train/` and `test/` (or `val/`) with class folders in each, or only class folders, of which a
    fixed share is for testing. Classes are numbered in the order of their names. A zip is read in place.
    """

    def prepare(self) -> None:
        self.open(self.config.path)
        self.substitutes = suitable_targets(self.image_shape)
        self.source = self.config.source or next(iter(self.substitutes), None)
        self.validation_size = self.config.validation

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.config.size, self.config.resize, self.config.channels)

    def list_files(self, tree: FileTree) -> DatasetFiles:
        top = _top_folder(tree)
        train_folder = join(top, _TRAIN_FOLDER)
        if not tree.folders_in(train_folder):  # in a class named "train" there are only images
            return self._split_by_share(tree, top)
        for test_folder in (join(top, name) for name in _TEST_FOLDERS):
            if tree.folders_in(test_folder):
                return self._split_by_folder(tree, train_folder, test_folder)
        message = "there is no test/ or val/ with class folders beside it"
        raise UserError(Problem(message, file=tree.full_path(train_folder)))

    def _split_by_folder(self, tree: FileTree, train_folder: str, test_folder: str) -> DatasetFiles:
        if self.config.test is not None:
            raise UserError(
                f"dataset {self.name}: `test` is for folders without a split: {tree.path} has "
                f"{train_folder}/ and {test_folder}/"
            )
        train, test = images_by_class(tree, train_folder), images_by_class(tree, test_folder)
        for folder, classes, expected in ((test_folder, test, train), (train_folder, train, test)):
            if missing := sorted(set(expected) - set(classes)):
                message = f"has no class folder {', '.join(missing)}"
                raise UserError(Problem(message, file=tree.full_path(folder)))
        labels = {name: label for label, name in enumerate(sorted(train))}
        train_files, test_files = (LabelledFiles.of_classes(images, labels) for images in (train, test))
        return DatasetFiles(tuple(labels), train_files, test_files)

    def _split_by_share(self, tree: FileTree, folder: str) -> DatasetFiles:
        images = images_by_class(tree, folder)
        splits = [name for name in images if name.lower() in _SPLIT_NAMES]
        if len(splits) > 1:
            message = f"{'/ and '.join(splits)}/ look like parts of a split, not like classes"
            hint = "train/ and test/, with a folder for each class in both"
            raise UserError(Problem(message, file=tree.full_path(folder), hint=hint))
        labels = {name: label for label, name in enumerate(sorted(images))}
        files = LabelledFiles.of_classes(images, labels)
        order = proportional_order(torch.tensor(files.labels))
        count = max(1, round((self.config.test or 0.2) * len(order)))
        train, test = order[count:].sort().values, order[:count].sort().values
        return DatasetFiles(tuple(labels), files.subset(train), files.subset(test))


def _top_folder(tree: FileTree) -> str:
    """The folder that contains the classes or splits; a zip of a folder often contains the folder itself."""
    top = ""
    while len(folders := tree.folders_in(top)) == 1 and not tree.images_in(top):
        below = join(top, folders[0])
        if folders[0] in (_TRAIN_FOLDER, *_TEST_FOLDERS) or not tree.folders_in(below):
            break
        top = below
    return top
