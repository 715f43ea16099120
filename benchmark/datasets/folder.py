"""Anyone's own images: a folder for each class, in a directory or in a zip."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from typing_extensions import Self

from benchmark.datasets.class_folders import ClassFolders, Found, Listing
from benchmark.datasets.contract import dataset, proportional_order
from benchmark.datasets.own import suited_to
from benchmark.datasets.pictures import Preparation
from benchmark.datasets.tree import Tree, class_images
from benchmark.errors import Problem, UserError
from benchmark.plugin import Config, apart, param

_TEST_SHARE = 0.2
_TRAIN_FOLDER = "train"
_TEST_FOLDERS = ("test", "val")
_PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})


class FolderConfig(Config):
    """Where the images are, and what is made of them.

    path: the directory or the zip, absolute or relative to the root of the data sets.
    size: height and width. The shorter side is scaled to `resize` (bilinear, antialiased; default: to
        `size`) and the middle cut out. Default: as the images are, which must all be of one size.
    channels: 1 makes colour images grey, 3 repeats the values of grey ones; default: as in the first
        image, and an image of another kind is an error.
    test: share of each class that is for testing, where there are no folders train/ and test/ (default
        0.2); 1 leaves nothing to train with.
    validation: share of the training images that is held out.
    source: target that is the default source classifier; default: mnist-c for 28×28, cifar-d for 32×32.
    """

    path: str = apart(min_length=1)
    size: int | None = param(None, ge=1)
    resize: int | None = param(None, ge=1)
    channels: Literal[1, 3] | None = param(None)
    test: float | None = param(None, gt=0, le=1)
    validation: float = param(0.1, gt=0, lt=1)
    source: str | None = apart(None)

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        if self.resize is not None and (self.size is None or self.resize < self.size):
            raise ValueError("`size` is cut out of what `resize` leaves: it must be given, and not be more")
        return self


@dataset("folder")
class Folder(ClassFolders[FolderConfig]):
    """Your own images: a directory, or a zip of one, with a folder for each class.

    Either `train/` and `test/` (or `val/`) with class folders in each, or the class folders alone, of which
    a fixed share is set apart for testing. Classes are numbered in the order of their names. A zip is read
    in place.
    """

    def prepare(self) -> None:
        self.open(self.config.path)
        self.substitutes = suited_to(self.image_shape)
        self.source = self.config.source or next(iter(self.substitutes), None)
        self.validation_size = self.config.validation

    def preparation(self) -> Preparation:
        return Preparation(self.config.size, self.config.resize, self.config.channels)

    def look(self, tree: Tree) -> Found:
        top = _top(tree)
        test_folder = next((name for name in _TEST_FOLDERS if _holds_classes(tree, top, name)), None)
        if _holds_classes(tree, top, _TRAIN_FOLDER):
            if test_folder is None:
                wanted = " or ".join(f"{name}/" for name in _TEST_FOLDERS)
                place = tree.place(_inside(top, _TRAIN_FOLDER))
                raise UserError(Problem(f"there is no {wanted} with class folders beside it", file=place))
            return self._apart(tree, _inside(top, _TRAIN_FOLDER), _inside(top, test_folder))
        return self._shared_out(tree, top)

    def _apart(self, tree: Tree, train_folder: str, test_folder: str) -> Found:
        """Training and test images as the folders say."""
        if self.config.test is not None:
            raise UserError(
                f"dataset {self.name}: `test` is for folders without a split: {tree.path} has "
                f"{train_folder}/ and {test_folder}/"
            )
        train, test = class_images(tree, train_folder), class_images(tree, test_folder)
        for one, other, folder in ((train, test, test_folder), (test, train, train_folder)):
            missing = sorted(set(one) - set(other))
            if missing:
                place = tree.place(folder)
                raise UserError(Problem(f"has no class folder {', '.join(missing)}", file=place))
        labels = {name: label for label, name in enumerate(sorted(train))}
        return Found(tuple(labels), Listing.of(train, labels), Listing.of(test, labels))

    def _shared_out(self, tree: Tree, folder: str) -> Found:
        """A share of each class to test with, the rest to train with."""
        images = class_images(tree, folder)
        parts = [name for name in images if name.lower() in _PARTS]
        if len(parts) > 1:
            named = " and ".join(f"{name}/" for name in parts)
            raise UserError(
                Problem(
                    f"{named} look like parts of a split, not like classes",
                    file=tree.place(folder),
                    hint=f"{_TRAIN_FOLDER}/ and {_TEST_FOLDERS[0]}/, with a folder for each class in both",
                )
            )
        labels = {name: label for label, name in enumerate(sorted(images))}
        everything = Listing.of(images, labels)
        order = proportional_order(torch.tensor(everything.labels))
        share = _TEST_SHARE if self.config.test is None else self.config.test
        tests = max(1, round(share * len(order)))
        train, test = order[tests:].sort().values, order[:tests].sort().values
        return Found(tuple(labels), everything.subset(train), everything.subset(test))


def _top(tree: Tree) -> str:
    """Where the classes begin: a zip of a folder mostly holds that folder itself."""
    top = ""
    while len(inside := tree.folders_in(top)) == 1 and not tree.images_in(top):
        below = _inside(top, inside[0])
        if inside[0] in (_TRAIN_FOLDER, *_TEST_FOLDERS) or not tree.folders_in(below):
            break
        top = below
    return top


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _holds_classes(tree: Tree, folder: str, name: str) -> bool:
    """Whether `name` in `folder` has folders in it: a class of that name has images alone."""
    return bool(tree.folders_in(_inside(folder, name)))
