"""Reads the files of a zoo from folders, URLs, tar and zip archives. Nothing is unpacked."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import fsspec

from benchmark.errors import UserError
from benchmark.files.names import name_fault
from benchmark.storage.zoo_index import FILE_BYTES, INDEX, INDEX_BYTES, ZooSource

ARCHIVES = (".tar", ".zip")

_ARCHIVE_BYTES = 4 * 10**9
_MEMBERS = 10_000

Reader = Callable[[int], bytes]
"""Reads at most so many bytes of a member of an archive."""


class Folder:
    """A folder, or a URL that fsspec knows. `links`: whether files may be links, as in caches of hubs."""

    def __init__(self, url: str, title: str | None = None, *, links: bool = True) -> None:
        self.local = "://" not in url
        self.url = os.path.expanduser(url) if self.local else url.rstrip("/")
        self.title = title or url
        self._links = links

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file.

        A `UserError` if it cannot be read, is a forbidden link, or has more than `limit` bytes.
        """
        if self.local and not self._links and _is_irregular(Path(self.url) / name):
            raise UserError(f"{self.title}: {name} is not a regular file")
        try:
            files, root = self._opened
            with files.open(f"{root}/{name}", "rb") as file:
                content = bytes(file.read(limit + 1))
        except Exception as error:  # each remote file system raises its own exceptions
            raise UserError(f"{self.title}: {name} cannot be read: {_cause(error)}") from error
        return _limited(content, limit, f"{self.title}: {name}")

    def size(self, name: str) -> int | None:
        """The size of a file in a local folder; None if the file is missing."""
        try:
            return (Path(self.url) / name).stat().st_size
        except OSError:
            return None

    @cached_property
    def _opened(self) -> Any:  # the file system, and the folder's path in it
        return fsspec.core.url_to_fs(self.url)


class Archive:
    """The members of a tar or zip archive; a `UserError` if the archive, or a file in it, is too large."""

    def __init__(self, title: str, members: Mapping[str, tuple[int, Reader]]) -> None:
        self.title = title
        self._members = members
        if sum(size for size, _ in members.values()) > _ARCHIVE_BYTES:
            raise UserError(f"{title} has more than {_ARCHIVE_BYTES / 1e9:.0f} GB")
        for name, (size, _) in members.items():
            if size > (INDEX_BYTES if name == INDEX else FILE_BYTES):
                raise UserError(f"{title}: {name} is too large for a file of a zoo")

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._members)

    def read(self, name: str, limit: int) -> bytes:
        """The content of a member; a `UserError` if it is missing, damaged, or larger than `limit` bytes."""
        if name not in self._members:
            raise UserError(f"{self.title} has no {name}")
        try:
            content = self._members[name][1](limit + 1)
        except Exception as error:  # damaged or encrypted; zlib, tarfile and zipfile raise various exceptions
            raise UserError(f"{self.title}: {name} cannot be read: {_cause(error)}") from error
        return _limited(content, limit, f"{self.title}: {name}")


def open_source(place: str) -> ZooSource:
    """Open a zoo for import: an archive, a folder or a URL of either.

    A `UserError` if it does not exist or cannot be read; or if a member is repeated, is not a regular file,
    or has a name that is not a plain file name.
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
            raise UserError(f"no archive at {place}")
    try:
        members = _tar_members(place, file) if place.endswith(".tar") else _zip_members(place, file)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{place} is not a readable archive: {error}") from error
    return Archive(place, members)


def _tar_members(title: str, file: Any) -> dict[str, tuple[int, Reader]]:
    # Uncompressed only: weights do not compress, and a small archive cannot unpack to a large one.
    archive = tarfile.TarFile(fileobj=file) if isinstance(file, io.BytesIO) else tarfile.TarFile(file)
    members = []
    for member in archive:
        members.append(member)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise UserError(f"{title}: {member.name!r} is not a regular file")
        if len(members) > _MEMBERS:
            raise UserError(f"{title} has more than {_MEMBERS} members")
    _check_names(title, [member.name for member in members])
    return {member.name: (member.size, partial(_read_tar_member, archive, member)) for member in members}


def _read_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    opened = archive.extractfile(member)
    assert opened is not None
    return opened.read(limit)


def _zip_members(title: str, file: Any) -> dict[str, tuple[int, Reader]]:
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if len(members) > _MEMBERS:
        raise UserError(f"{title} has more than {_MEMBERS} members")
    for member in members:
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or member.is_dir():
            raise UserError(f"{title}: {member.filename!r} is not a regular file")
    _check_names(title, [member.orig_filename for member in members])
    return {m.filename: (m.file_size, partial(_read_zip_member, archive, m)) for m in members}


def _read_zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(member) as opened:
        return opened.read(limit)


def _check_names(title: str, names: list[str]) -> None:
    for name, count in Counter(names).items():
        if name_fault(name) is not None:
            raise UserError(f"{title}: {name!r} is not a plain file name: a zoo has no folders")
        if count > 1:
            raise UserError(f"{title} has the member {name} {count} times")


def _is_irregular(path: Path) -> bool:
    """Whether a path exists and is not a regular file; a link counts as irregular."""
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
