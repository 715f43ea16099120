"""Files: their digests, how messages write their paths, and how a file is written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for bytes, that replaces `path` when the block ends.

    The folder may come from somebody else. So the temporary file beside `path` has a random name and is
    always created: a file or link that was prepared under that name is never opened. A link at `path`
    is replaced and not followed. If the block raises, the temporary file is removed and `path` stays.

    Raises:
        OSError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # each exists on some systems only
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def shown(path: Path | str) -> str:
    """A path as messages write it: relative where it lies below the current folder."""
    here, path = Path.cwd(), Path(path)
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
