"""Where the files of a zoo are read from: folders, URLs, tar and zip archives. Nothing is ever unpacked."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec

from benchmark.errors import UserError
from benchmark.file_names import name_fault
from benchmark.zoo_index import FILE_BYTES, INDEX, INDEX_BYTES, Source

ARCHIVES = (".tar", ".zip")

_ARCHIVE_BYTES = 4 * 10**9
_MEMBERS = 10_000

Reader = Callable[[int], bytes]
"""Reads up to so many bytes of a member of an archive."""


class Folder:
    """A folder, or a URL that fsspec knows.

    Args:
        url: Where it is.
        title: Where it is, in words.
        links: Whether files may be links, as the caches of some hubs have them.
    """

    def __init__(self, url: str, title: str | None = None, *, links: bool = True) -> None:
        self.local = "://" not in url
        self.url = os.path.expanduser(url) if self.local else url.rstrip("/")
        self.title = title or url
        self._links = links
        self._files: Any = None
        self._root = ""

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file.

        Raises:
            UserError: It cannot be read, is a link where none may be, or has more than `limit` bytes.
        """
        if self.local and not self._links and _is_odd(Path(self.url) / name):
            raise UserError(f"{self.title}: {name} is no regular file")
        try:
            files, root = self._opened()
            with files.open(f"{root}/{name}", "rb") as file:
                content = bytes(file.read(limit + 1))
        except Exception as error:  # what a remote file system raises is its own; the message has it
            raise UserError(f"{self.title}: {name} cannot be read: {_cause(error)}") from error
        return _limited(content, limit, f"{self.title}: {name}")

    def size(self, name: str) -> int | None:
        """The size of a file in a local folder; None if it is not there."""
        try:
            return (Path(self.url) / name).stat().st_size
        except OSError:
            return None

    def _opened(self) -> tuple[Any, str]:
        if self._files is None:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        return self._files, self._root


class Archive:
    """The members of a tar or zip archive.

    Raises:
        UserError: It cannot be read, or a member is not a plain file of a plain name, or in it twice.
    """

    def __init__(self, title: str, members: Mapping[str, tuple[int, Reader]]) -> None:
        self.title = title
        self._members = members
        if sum(size for size, _ in members.values()) > _ARCHIVE_BYTES:
            raise UserError(f"{title} holds more than {_ARCHIVE_BYTES / 1e9:.0f} GB")
        for name, (size, _) in members.items():
            if size > (INDEX_BYTES if name == INDEX else FILE_BYTES):
                raise UserError(f"{title}: {name} is too large for a file of a zoo")

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._members)

    def read(self, name: str, limit: int) -> bytes:
        """The content of a member.

        Raises:
            UserError: There is none of that name, it is damaged, or has more than `limit` bytes.
        """
        if name not in self._members:
            raise UserError(f"{self.title}: it has no {name}")
        try:
            content = self._members[name][1](limit + 1)
        except Exception as error:  # damaged or encrypted: zlib, tarfile and zipfile raise what they like
            raise UserError(f"{self.title}: {name} cannot be read: {_cause(error)}") from error
        return _limited(content, limit, f"{self.title}: {name}")


def open_source(place: str) -> Source:
    """A zoo to import: an archive, a folder or a URL of either.

    Raises:
        UserError: There is none, or it is no archive of plain files.
    """
    if not place.endswith(ARCHIVES):
        if "://" not in place and not Path(place).is_dir():
            raise UserError(f"no zoo at {place}", hint="name a folder, a URL, or an archive (.tar or .zip)")
        return Folder(place, links=False)
    if "://" in place:
        parent, _, name = place.rpartition("/")
        file: Any = io.BytesIO(Folder(parent).read(name, _ARCHIVE_BYTES))
    else:
        file = Path(place)
        if not file.is_file():
            raise UserError(f"no archive {place}")
    try:
        members = _tar(place, file) if place.endswith(".tar") else _zip(place, file)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{place} is no archive that can be read: {error}") from error
    return Archive(place, members)


def _tar(title: str, file: Any) -> dict[str, tuple[int, Reader]]:
    # Uncompressed only: weights do not get smaller, and a small file cannot become a large one.
    archive = tarfile.TarFile(fileobj=file) if isinstance(file, io.BytesIO) else tarfile.TarFile(file)
    members = []
    for member in archive:
        members.append(member)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise UserError(f"{title}: {member.name!r} is no regular file")
        if len(members) > _MEMBERS:
            raise UserError(f"{title} has more than {_MEMBERS} members")
    _check_names(title, [member.name for member in members])

    def reader(member: tarfile.TarInfo) -> Reader:
        def read(limit: int) -> bytes:
            opened = archive.extractfile(member)
            assert opened is not None
            return opened.read(limit)

        return read

    return {member.name: (member.size, reader(member)) for member in members}


def _zip(title: str, file: Any) -> dict[str, tuple[int, Reader]]:
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if len(members) > _MEMBERS:
        raise UserError(f"{title} has more than {_MEMBERS} members")
    for member in members:
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or member.is_dir():
            raise UserError(f"{title}: {member.filename!r} is no regular file")
    _check_names(title, [member.orig_filename for member in members])

    def reader(member: zipfile.ZipInfo) -> Reader:
        def read(limit: int) -> bytes:
            with archive.open(member) as opened:
                return opened.read(limit)

        return read

    return {member.filename: (member.file_size, reader(member)) for member in members}


def _check_names(title: str, names: list[str]) -> None:
    for name, count in Counter(names).items():
        if name_fault(name) is not None:
            raise UserError(f"{title}: {name!r} is no plain file name: a zoo has no folders")
        if count > 1:
            raise UserError(f"{title}: {name} is in it {count} times")


def _is_odd(path: Path) -> bool:
    """Whether something is at a path that is no regular file, links included."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _limited(content: bytes, limit: int, name: str) -> bytes:
    if len(content) > limit:
        raise UserError(f"{name} has more than {limit / 1e6:.0f} MB")
    return content


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0] or type(error).__name__
