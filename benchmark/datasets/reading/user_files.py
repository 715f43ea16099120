"""For data sets that users bring: where their files are, and which targets suit their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.api import MissingImagesError, Problem, UserError

_SUITABLE = {(28, 28): ("mnist-c", "mnist-a"), (32, 32): ("cifar-d", "vgg13")}


def suitable_targets(shape: tuple[int, int, int]) -> Sequence[str]:
    """Targets for images of this shape (C, H, W); the first is the default source classifier."""
    return _SUITABLE.get(shape[1:], ())


def locate(path: str, root: Path) -> Path:
    """The file or folder that the parameter `path` of a data set names: absolute, or relative to `root`.

    Raises:
        MissingImagesError: It does not exist.
        UserError: It is a device or a pipe, which may never end.
    """
    located = root / Path(path).expanduser()
    if not located.exists():
        hint = "`path` is absolute, or relative to the folder that --data or BENCH_DATA names"
        raise MissingImagesError(Problem("there is no such file or folder", file=str(located), hint=hint))
    if not located.is_file() and not located.is_dir():
        raise UserError(Problem("is neither a regular file nor a folder", file=str(located)))
    return located
