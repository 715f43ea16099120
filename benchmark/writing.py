"""Files of this project's own: written whole or not at all, and never through a link."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from benchmark.errors import UserError


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


def is_own(path: Path) -> bool:
    """Whether there is a regular file under that very name, and not a link, a device or a pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def copy_own(source: Path, target: Path) -> None:
    """Copy a regular file. What a link leads to may be private, so it is never copied.

    Raises:
        UserError: The source is a link, a device, a pipe or a folder.
    """
    if not is_own(source):
        raise not_own(source)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(source, flags | getattr(os, "O_BINARY", 0))  # it may have been replaced since
    with os.fdopen(descriptor, "rb") as file, replacing(target) as copy:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise not_own(source)
        shutil.copyfileobj(file, copy)


def not_own(path: Path) -> UserError:
    """The refusal of a file that is none itself."""
    return UserError(
        f"{path} is a link or no regular file, so it is not published",
        hint="put the file itself in its place, if everybody may read it",
    )
