"""ImageNet (ILSVRC 2012), as torchvision unpacks it or as folders of WordNet ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import model_validator
from torchvision.datasets.imagenet import META_FILE, load_meta_file
from torchvision.models import ResNet50_Weights
from typing_extensions import Self

from benchmark.api import (
    Config,
    MissingImagesError,
    Problem,
    UserError,
    dataset,
    format_exception,
    param,
    unkeyed,
)
from benchmark.datasets.reading.class_folders import ClassFolders, DatasetFiles, LabelledFiles
from benchmark.datasets.reading.decoding import Preprocessing
from benchmark.datasets.reading.file_tree import FileTree, images_by_class

_WNID = re.compile(r"n\d{8}")


class ImageNetConfig(Config):
    """Where the images are, and their size.

    path: the folder, absolute or relative to the root of the data sets.
    size: height and width: 128, 224, 256, 299, …
    resize: the length that the shorter side is scaled to (bilinear, antialiased) before the centre crop;
        default: size / 0.875, as torchvision evaluates its classifiers.
    source: target that is the default source classifier.
    """

    path: str = unkeyed("imagenet", min_length=1)
    size: int = param(224, ge=8)
    resize: int | None = param(None, ge=8)
    source: str = unkeyed("resnet50")

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        if self.resize is not None and self.resize < self.size:
            raise ValueError("`size` cannot be larger than `resize`: it is the size of the centre crop")
        return self


@dataset("imagenet")
class ImageNet(ClassFolders[ImageNetConfig]):
    """ImageNet (ILSVRC 2012): the validation images to test on, 1,000 classes, streamed.

    The images are in one folder for each class, named by WordNet id. These folders are in `val/` and, for
    training, in `train/`; or they are directly in `path`, and then all images are test images. Labels are
    those of torchvision's pretrained classifiers. Grey images become RGB.
    """

    validation_size = 0.01
    test_size = 50_000

    def prepare(self) -> None:
        self.source = self.config.source
        self.open(self.config.path)

    def preprocessing(self) -> Preprocessing:
        resize = self.config.resize or round(self.config.size / 0.875)
        return Preprocessing(self.config.size, resize, channels=3)

    def list_files(self, tree: FileTree) -> DatasetFiles:
        top = tree.folders_in("")
        if not top:
            raise MissingImagesError(Problem("is empty", file=str(tree.path)))
        if not any(_WNID.fullmatch(name) for name in top) and "val" not in top:
            message = "holds neither val/ nor folders named by WordNet id (n01440764, …)"
            hint = "torchvision.datasets.ImageNet(FOLDER, 'val') unpacks the archives of image-net.org"
            raise UserError(Problem(message, file=str(tree.path), hint=hint))
        test = images_by_class(tree, "val" if "val" in top else "")
        train = images_by_class(tree, "train") if "train" in top else {}
        names = self._class_names(tree, test)
        labels = {wnid: label for label, wnid in enumerate(sorted(names))}
        for images in (train, test):
            if unknown := sorted(set(images) - set(labels)):
                raise UserError(Problem(f"{unknown[0]} is no ImageNet class", file=str(tree.path)))
        metadata = [META_FILE] if (tree.path / META_FILE).is_file() else []
        train_files, test_files = (LabelledFiles.of_classes(images, labels) for images in (train, test))
        return DatasetFiles([names[wnid] for wnid in sorted(names)], train_files, test_files, metadata)

    @staticmethod
    def _class_names(tree: FileTree, images: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """The class names by WordNet id, from torchvision's meta file.

        Without this file the labels are known only if all thousand class folders are present.
        """
        if (tree.path / META_FILE).is_file():
            try:
                meta = load_meta_file(tree.path)[0]
                return {str(wnid): str(names[0]) for wnid, names in meta.items()}
            except Exception as error:  # torch raises many types of exceptions for a foreign file
                message = f"is no meta file of torchvision's: {format_exception(error)}"
                raise UserError(Problem(message, file=tree.full_path(META_FILE))) from error
        known = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
        if len(images) != len(known):
            message = f"holds {len(images)} class folders and no {META_FILE}, so it is unknown which of the "
            message += f"{len(known)} classes they are"
            hint = "`name: folder` takes any classes, numbered in the order of their names"
            raise UserError(Problem(message, file=str(tree.path), hint=hint))
        return dict(zip(sorted(images), known, strict=True))
