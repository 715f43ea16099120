"""Writing files safely: a file is written completely or not at all, and no link is followed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from benchmark.errors import UserError


def make_output_folder(path: Path, option: str = "--out") -> None:
    """Create the folder that a command-line option names; UserError if it cannot be created or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        message = f"the output folder {path} cannot be written: {error.strerror}"
        raise UserError(message, hint=f"name another one with {option}") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for bytes, that replaces `path` when the block ends.

    The folder may have been prepared by an attacker. The temporary file beside `path` therefore has a random
    name and is always created: an existing file or link of that name is never opened. A link at `path` is
    replaced and not followed. If the block raises, the temporary file is removed and `path` stays unchanged.

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


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; a file or link at `path` is replaced."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON by `write_text`; values that JSON does not know are written as text."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def is_regular_file(path: Path) -> bool:
    """Whether `path` itself is a regular file, and not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def copy_regular_file(source: Path, target: Path) -> None:
    """Copy a regular file. A link is not followed, since the file that it leads to may be private.

    Raises:
        UserError: The source is a link, a device, a pipe or a folder.
    """
    if not is_regular_file(source):
        raise not_regular_file(source)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(source, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file, replacing(target) as copy:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # the source may have been replaced since
            raise not_regular_file(source)
        shutil.copyfileobj(file, copy)


def not_regular_file(path: Path) -> UserError:
    """The error for a file that is not published because it is not a regular file."""
    return UserError(
        f"{path} is a link or no regular file, so it is not published",
        hint="put the file itself in its place, if everybody may read it",
    )
