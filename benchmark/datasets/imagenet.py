"""ImageNet (ILSVRC 2012), as torchvision unpacks it or as folders of WordNet ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import model_validator
from torchvision.datasets.imagenet import META_FILE, load_meta_file
from torchvision.models import ResNet50_Weights
from typing_extensions import Self

from benchmark.datasets.class_folders import ClassFolders, Found, Listing
from benchmark.datasets.contract import dataset
from benchmark.datasets.pictures import Preparation
from benchmark.datasets.tree import Tree, class_images
from benchmark.errors import MissingImagesError, Problem, UserError, told
from benchmark.plugin import Config, apart, param

_CLASSES = 1000
_WNID = re.compile(r"n\d{8}")


class ImageNetConfig(Config):
    """Where the images are, and their size.

    path: the folder, absolute or relative to the root of the data sets.
    size: height and width: 128, 224, 256, 299, …
    resize: what the shorter side is scaled to (bilinear, antialiased) before the middle is cut out;
        default: size / 0.875, as torchvision evaluates its classifiers.
    source: target that is the default source classifier.
    """

    path: str = apart("imagenet", min_length=1)
    size: int = param(224, ge=8)
    resize: int | None = param(None, ge=8)
    source: str = apart("resnet50")

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        if self.resize is not None and self.resize < self.size:
            raise ValueError("`size` is cut out of what `resize` leaves: it cannot be more")
        return self


@dataset("imagenet")
class ImageNet(ClassFolders[ImageNetConfig]):
    """ImageNet (ILSVRC 2012): the validation images to test on, 1,000 classes, streamed.

    `val/` and, for what is trained on it, `train/`, each with folders named by WordNet id; or these folders
    alone, to test on. Labels are those of torchvision's pretrained classifiers. Grey images become RGB.
    """

    validation_size = 0.01
    test_size = 50_000

    def prepare(self) -> None:
        self.source = self.config.source
        self.open(self.config.path)

    def preparation(self) -> Preparation:
        resize = self.config.resize or round(self.config.size / 0.875)
        return Preparation(self.config.size, resize, channels=3)

    def look(self, tree: Tree) -> Found:
        top = tree.folders_in("")
        if not top:
            raise MissingImagesError(Problem("is empty", file=str(tree.path)))
        if not any(_WNID.fullmatch(name) for name in top) and "val" not in top:
            raise UserError(
                Problem(
                    "holds neither val/ nor folders named by WordNet id (n01440764, …)",
                    file=str(tree.path),
                    hint="torchvision.datasets.ImageNet(FOLDER, 'val') unpacks the archives of image-net.org",
                )
            )
        test = class_images(tree, "val" if "val" in top else "")
        train = class_images(tree, "train") if "train" in top else {}
        names = self._names(tree, test)
        labels = {wnid: label for label, wnid in enumerate(sorted(names))}
        for images in (train, test):
            strange = sorted(set(images) - set(labels))
            if strange:
                raise UserError(Problem(f"{strange[0]} is no ImageNet class", file=str(tree.path)))
        beside = [META_FILE] if (tree.path / META_FILE).is_file() else []
        class_names = [names[wnid] for wnid in sorted(names)]
        return Found(class_names, Listing.of(train, labels), Listing.of(test, labels), beside)

    @staticmethod
    def _names(tree: Tree, images: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """The name of each class by its WordNet id: from torchvision's meta file, or by counting.

        Without that file a label is only known where all thousand folders are there.
        """
        if (tree.path / META_FILE).is_file():
            try:
                meta = load_meta_file(tree.path)[0]
                return {str(wnid): str(names[0]) for wnid, names in meta.items()}
            # whatever torch makes of a file that is none of its own
            except Exception as error:
                message = f"is no meta file of torchvision's: {told(error)}"
                raise UserError(Problem(message, file=tree.place(META_FILE))) from error
        if len(images) != _CLASSES:
            raise UserError(
                Problem(
                    f"holds {len(images)} class folders and no {META_FILE}: which of the {_CLASSES} classes "
                    "they are cannot be told",
                    file=str(tree.path),
                    hint="`name: folder` takes any classes, numbered in the order of their names",
                )
            )
        return dict(zip(sorted(images), ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True))
