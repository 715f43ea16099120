"""From the bytes of an image file to an array of the size and the channels that a data set has."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import functional

from benchmark.errors import Problem, UserError, told

_GREY = ("1", "L", "LA")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_WORDS = {1: "grey", 3: "RGB"}


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of a data set.

    Attributes:
        size: Height and width of the result; None takes the images as they are, all of one size.
        resize: What the shorter side is scaled to before the middle is cut out; None: to `size`.
        channels: 1 turns colour into luma (ITU-R 601), 3 repeats grey; None: as in the first image.
    """

    size: int | None = None
    resize: int | None = None
    channels: int | None = None

    def shape_of(self, content: bytes, place: str) -> tuple[int, int, int]:
        """The shape (C, H, W) that a data set has whose first image is this one.

        Raises:
            UserError: It is no image; names `place`.
        """
        image = self._prepared(content, place)
        return _channels(image), image.height, image.width

    def decode(self, content: bytes, place: str, shape: tuple[int, int, int]) -> Tensor:
        """The image as uint8 of that shape (C, H, W).

        Raises:
            UserError: It is no whole image, or of another size or kind than the first; names `place`.
        """
        image = self._prepared(content, place)
        channels, height, width = shape
        if _channels(image) != channels:
            raise UserError(
                Problem(
                    f"is {_WORDS[_channels(image)]}, and the data set's first image is {_WORDS[channels]}",
                    file=place,
                    hint=f"`channels: {channels}` makes all images {_WORDS[channels]}",
                )
            )
        if (image.height, image.width) != (height, width):
            raise UserError(
                Problem(
                    f"is {image.height}×{image.width}, and the data set's first image is {height}×{width}",
                    file=place,
                    hint="`size: N` makes all images N×N",
                )
            )
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)

    def _prepared(self, content: bytes, place: str) -> Image.Image:
        image = _opened(content, place)
        channels = self.channels or (1 if image.mode in _GREY else 3)
        image = image.convert("L" if channels == 1 else "RGB")
        if self.size is None:
            return image
        # Pillow's bilinear filter, which averages when it shrinks: torchvision's own evaluation
        shorter = functional.resize(image, self.resize or self.size, antialias=True)
        middle: Image.Image = functional.center_crop(shorter, [self.size, self.size])
        return middle


def _channels(image: Image.Image) -> int:
    return 1 if image.mode == "L" else 3


def _opened(content: bytes, place: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # Pillow raises all kinds of things at broken files
        # of bytes in memory Pillow says where in memory they are, which is of no use to anybody
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else told(error)
        raise UserError(Problem(f"cannot be read as an image: {reason}", file=place)) from error
    if image.mode in _DEEP:
        raise UserError(
            Problem(f"has pixels of more than 8 bits (mode {image.mode})", file=place, hint="make it 8-bit")
        )
    return image
