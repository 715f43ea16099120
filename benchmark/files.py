"""Files that parameters name: their digests, links named by content, and how messages write their paths."""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

_BLOCK = 1 << 20


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: It cannot be read, or is no regular file: a device or a pipe may never end.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # NUL, or text that no file system can have
        raise OSError(errno.EINVAL, "it is no path") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            content.update(block)
    return content.hexdigest()


_ORIGINALS: dict[Path, Path] = {}
"""The files that links of this process lead to."""


def linked(path: Path, sha256: str) -> Path:
    """A link to a file whose path names the content: a plugin that keeps what it read by path stays right.

    The link is in a private folder of this process, which is removed at exit. It is symbolic, so large files
    are not copied, and `resolve()` leads to the file that the user may have trusted. Where the system makes
    no links, the path itself is returned.
    """
    path = path.absolute()
    place = hashlib.sha256(os.fsencode(path)).hexdigest()
    with suppress(OSError):
        link = _private_folder(os.getpid()) / f"{sha256}-{place[:8]}" / path.name
        if link not in _ORIGINALS:
            link.parent.mkdir()
            link.symlink_to(path)
            _ORIGINALS[link] = path
        return link
    return path


@cache
def _private_folder(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bench-files-"))
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked process inherits what is registered
        shutil.rmtree(folder, ignore_errors=True)


def shown(path: Path | str, *, public: bool = False) -> str:
    """A path as messages write it: relative if it lies below the current folder.

    Args:
        path: The path.
        public: Whether the text may be published: of a file elsewhere it is then the name alone.
    """
    here, path = Path.cwd(), _ORIGINALS.get(Path(path), Path(path))
    if path.is_relative_to(here):
        return path.relative_to(here).as_posix()
    return path.name if public else path.as_posix()
