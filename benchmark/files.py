"""Files that parameters name: their digests, and how messages write their paths."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            content.update(block)
    return content.hexdigest()


def shown(path: Path | str, *, public: bool = False) -> str:
    """A path as messages write it: relative if it lies below the current folder.

    Args:
        path: The path.
        public: Whether the text may be published: of a file elsewhere it is then the name alone.
    """
    here, path = Path.cwd(), Path(path)
    if path.is_relative_to(here):
        return path.relative_to(here).as_posix()
    return path.name if public else path.as_posix()
