"""What the data sets that users bring have in common: where they are, and who teaches defenses on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import MissingImagesError, Problem, UserError

_SUITED = {(28, 28): ("mnist-c", "mnist-a"), (32, 32): ("cifar-d", "vgg13")}


def suited_to(shape: tuple[int, int, int]) -> Sequence[str]:
    """Targets that suit images of that shape; the first is the default source classifier."""
    return _SUITED.get(shape[1:], ())


def find(path: str, root: Path) -> Path:
    """The file or folder that a data set's `path` means: below the root of the data sets, or absolute.

    Raises:
        MissingImagesError: There is nothing.
        UserError: It is a device or a pipe, which may never end.
    """
    place = root / Path(path).expanduser()
    if not place.exists():
        raise MissingImagesError(
            Problem(
                "there is no such file or folder",
                file=str(place),
                hint="`path` is absolute, or relative to the folder that --data or BENCH_DATA names",
            )
        )
    if not place.is_file() and not place.is_dir():
        raise UserError(Problem("is neither a regular file nor a folder", file=str(place)))
    return place
