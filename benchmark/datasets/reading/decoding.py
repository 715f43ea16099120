"""Decodes image files to arrays of the size and channels of a data set."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import functional

from benchmark.api import Problem, UserError, format_exception

_GREY = ("1", "L", "LA")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_KINDS = {1: "grey", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """How every image of a data set is resized, cropped and converted.

    Attributes:
        size: Height and width of the result; None leaves the images as they are, all of one size.
        resize: Length that the shorter side is scaled to before the centre crop; None: `size`.
        channels: 1 converts colour to luma (ITU-R 601), 3 repeats grey values; None: as in the first image.
    """

    size: int | None = None
    resize: int | None = None
    channels: int | None = None

    def shape_of(self, content: bytes, path: str) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image after preprocessing; UserError if the file is not an image."""
        image = self._apply(content, path)
        return _channels(image), image.height, image.width

    def decode(self, content: bytes, path: str, shape: tuple[int, int, int]) -> Tensor:
        """The image as uint8 of that shape (C, H, W).

        Raises:
            UserError: The file is not a complete image, or its size or channels differ; names `path`.
        """
        image = self._apply(content, path)
        channels, height, width = shape
        if _channels(image) != channels:
            kind, first = _KINDS[_channels(image)], _KINDS[channels]
            message = f"is {kind}, and the data set's first image is {first}"
            hint = f"`channels: {channels}` makes all images {first}"
            raise UserError(Problem(message, file=path, hint=hint))
        if (image.height, image.width) != (height, width):
            message = f"is {image.height}×{image.width}, and the data set's first image is {height}×{width}"
            raise UserError(Problem(message, file=path, hint="`size: N` makes all images N×N"))
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)

    def _apply(self, content: bytes, path: str) -> Image.Image:
        image = _open(content, path)
        channels = self.channels or (1 if image.mode in _GREY else 3)
        image = image.convert("L" if channels == 1 else "RGB")
        if self.size is None:
            return image
        # Pillow's bilinear filter with antialiasing, as in torchvision's evaluation of its classifiers
        resized = functional.resize(image, self.resize or self.size, antialias=True)
        return functional.center_crop(resized, [self.size, self.size])  # type: ignore[no-any-return]


def _channels(image: Image.Image) -> int:
    return 1 if image.mode == "L" else 3


def _open(content: bytes, path: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # for damaged files Pillow raises many types of exceptions
        # UnidentifiedImageError names an object in memory, which does not help the user
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else format_exception(error)
        raise UserError(Problem(f"cannot be read as an image: {reason}", file=path)) from error
    if image.mode in _DEEP:
        message = f"has pixels of more than 8 bits (mode {image.mode})"
        raise UserError(Problem(message, file=path, hint="make it 8-bit"))
    return image
