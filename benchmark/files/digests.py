"""Digests of files, links that are named after the content, and paths as messages show them."""

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


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: It cannot be read, or it is not a regular file. A device or a pipe may never end.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # NUL, or text that no file system accepts
        raise OSError(errno.EINVAL, "it is no path") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()


_ORIGINALS: dict[Path, Path] = {}
"""The target of each link that this process made."""


def linked(path: Path, sha256: str) -> Path:
    """Make a link to a file, with the digest of the content in the link's path.

    Other content gives another path, so a plugin that caches files by path reads no old content. The link is
    in a private folder of this process, which is removed at exit. It is symbolic: large files are not copied,
    and `resolve()` leads to the file that the user may have trusted. If the system cannot make links, the
    path itself is returned.
    """
    path = path.absolute()
    path_digest = hashlib.sha256(os.fsencode(path)).hexdigest()
    with suppress(OSError):
        link = _private_folder(os.getpid()) / f"{sha256}-{path_digest[:8]}" / path.name
        if link not in _ORIGINALS:
            link.parent.mkdir()
            link.symlink_to(path)
            _ORIGINALS[link] = path
        return link
    return path


@cache
def _private_folder(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bench-files-"))

    @atexit.register
    def remove() -> None:
        if os.getpid() == process:  # a forked process inherits the registered function
            shutil.rmtree(folder, ignore_errors=True)

    return folder


def shown(path: Path | str, *, public: bool = False) -> str:
    """A path as messages show it: relative if it is below the current folder.

    If the text may be published (`public`), a path outside the current folder is reduced to the file's name.
    """
    current, path = Path.cwd(), _ORIGINALS.get(Path(path), Path(path))
    if path.is_relative_to(current):
        return path.relative_to(current).as_posix()
    return path.name if public else path.as_posix()
