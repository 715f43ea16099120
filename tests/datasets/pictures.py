"""Small image files in class folders, for the tests of data sets."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(label: int, index: int, height: int = 8, width: int = 8, channels: int = 3) -> Image.Image:
    """Noise around a grey level that depends on the class."""
    random = np.random.RandomState(1000 * label + index)
    pixels = random.randint(0, 40, (height, width, 3), dtype=np.uint8) + np.uint8(60 * label)
    return Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])


def write_classes(
    folder: Path, names: tuple[str, ...] = ("ant", "bee", "cat"), count: int = 6, start: int = 0, **form: int
) -> Path:
    """`count` PNG files for each class."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(start, start + count):
            picture(label, index, **form).save(folder / name / f"{index:03}.png")
    return folder


def write_halves(folder: Path, **form: int) -> Path:
    """`train/` with six images of each class, `test/` with four."""
    write_classes(folder / "train", **form)
    write_classes(folder / "test", count=4, start=100, **form)
    return folder


def zipped(folder: Path, path: Path, inside: str = "") -> Path:
    """A zip of a folder, below `inside`."""
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, inside + member.relative_to(folder).as_posix())
    return path
