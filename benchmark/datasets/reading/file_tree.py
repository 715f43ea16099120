"""Files in a directory, or in a zip that is read in place."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from benchmark.api import Problem, UserError
from benchmark.datasets.reading.file_digests import fingerprint_of

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in lower or upper case; other files are ignored."""


class FileTree(ABC):
    """Files and folders. Names are relative to the top, with slashes; "" is the top folder itself.

    Files and folders whose name begins with a dot, and `__MACOSX`, are ignored.

    Args:
        path: The directory or the zip.
        names: All files in it.
        folders: All folders in it, including empty ones.
    """

    def __init__(self, path: Path, names: Iterable[str], folders: Iterable[str]) -> None:
        self.path = path
        visible = sorted(name for name in names if _visible(name))
        if odd := [name for name in visible if name.encode(errors="ignore").decode() != name]:
            shown = odd[0].encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise UserError(Problem("has a name that is not UTF-8", file=self.full_path(shown)))
        self._images = [name for name in visible if name.lower().endswith(IMAGES)]
        self._others = [name for name in visible if not name.lower().endswith(IMAGES)]
        self._children: dict[str, set[str]] = {}
        for folder in filter(_visible, folders):
            for child in (PurePosixPath(folder), *PurePosixPath(folder).parents):
                if child.name:
                    parent = "" if str(child.parent) == "." else str(child.parent)
                    self._children.setdefault(parent, set()).add(child.name)

    def folders_in(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""
        return sorted(self._children.get(folder, ()))

    def images_below(self, folder: str) -> list[str]:
        """The images in a folder and in all folders below it, sorted."""
        return _below(self._images, folder)

    def images_in(self, folder: str) -> list[str]:
        """The images directly in a folder, sorted."""
        depth = len(PurePosixPath(folder).parts) + 1
        return [name for name in self.images_below(folder) if name.count("/") + 1 == depth]

    def others_below(self, folder: str) -> list[str]:
        """The files in a folder and in all folders below it that are not images."""
        return _below(self._others, folder)

    def full_path(self, name: str) -> str:
        """The path of a file or folder, for messages."""
        return f"{self.path}/{name}" if name else str(self.path)

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file; UserError if it cannot be read."""

    @abstractmethod
    def fingerprint(self, names: Iterable[str]) -> str:
        """SHA-256 that changes when one of these files changes."""


class DirectoryTree(FileTree):
    """A directory; symbolic links are followed."""

    def __init__(self, path: Path) -> None:
        names: list[str] = []
        folders: list[str] = []
        for parent, subfolders, files in os.walk(path, followlinks=True, onerror=_refuse):
            relative = Path(parent).relative_to(path).as_posix()
            prefix = "" if relative == "." else f"{relative}/"
            for link in (Path(parent, name) for name in subfolders):
                # the walk would list the images of such a folder again and again
                if link.is_symlink() and link.parent.resolve().is_relative_to(link.resolve()):
                    raise UserError(Problem("is a link to a folder that it is in", file=str(link)))
            names += [prefix + name for name in files]
            folders += [prefix + name for name in subfolders]
        super().__init__(path, names, folders)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise _unreadable(error, self.full_path(name)) from error

    def fingerprint(self, names: Iterable[str]) -> str:
        try:
            return fingerprint_of({name: self.path / name for name in names})
        except OSError as error:
            raise _unreadable(error, str(error.filename or self.path)) from error


class ZipTree(FileTree):
    """A zip file. Its fingerprint is that of the whole file."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            tar = isinstance(error, zipfile.BadZipFile) and tarfile.is_tarfile(path)
            hint = "a tar has to be unpacked first" if tar else None
            message = f"cannot be read as a zip: {error}"
            raise UserError(Problem(message, file=str(path), hint=hint)) from error
        # some programs write ./ or backslashes; of two entries with the same name the later one counts
        self._entries = {name.replace("\\", "/").removeprefix("./"): name for name in self._zip.namelist()}
        names = list(self._entries)
        files = [name for name in names if not name.endswith("/")]
        folders = {name.rstrip("/") for name in names if name.endswith("/")}
        super().__init__(path, files, folders | {name.rpartition("/")[0] for name in files} - {""})

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._entries[name])
        # a wrong checksum, a password, an unknown compression, a short file
        except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
            message = f"cannot be read from the zip: {error}"
            raise UserError(Problem(message, file=self.full_path(name))) from error

    def fingerprint(self, names: Iterable[str]) -> str:
        return fingerprint_of({"": self.path})


def open_tree(path: Path) -> FileTree:
    """List the directory or the zip at `path`; UserError if there is neither."""
    if path.is_dir():
        return DirectoryTree(path)
    if path.is_file():
        return ZipTree(path)
    raise UserError(Problem("there is no such folder or zip file", file=str(path)))


def images_by_class(tree: FileTree, folder: str) -> dict[str, list[str]]:
    """The images of each class folder directly in `folder`, by class name, sorted.

    Raises:
        UserError: A class has no image, an image has no class, or there are fewer than two classes.
    """
    names = tree.folders_in(folder)
    if len(names) < 2:
        found = f"only {names[0]}/" if names else "no folder at all"
        message = f"two class folders at least are needed, there is {found}"
        hint = "one folder for each class, images in it"
        raise UserError(Problem(message, file=tree.full_path(folder), hint=hint))
    if stray := tree.images_in(folder):
        raise UserError(Problem("is in no class folder", file=tree.full_path(stray[0])))
    classes = {}
    for name in names:
        class_folder = join(folder, name)
        classes[name] = tree.images_below(class_folder)
        if not classes[name]:
            others = tree.others_below(class_folder)
            rest = f" but {len(others)} other files, such as {others[0].rpartition('/')[2]}" if others else ""
            message = f"class folder with no images ({', '.join(IMAGES)}) in it{rest}"
            raise UserError(Problem(message, file=tree.full_path(class_folder)))
    return classes


def join(folder: str, name: str) -> str:
    """The name of a file or folder in `folder`, relative to the top of the tree."""
    return f"{folder}/{name}" if folder else name


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _below(names: list[str], folder: str) -> list[str]:
    if not folder:
        return names
    # names with the same prefix are adjacent in sorted order; "0" is the character after "/"
    return names[bisect_left(names, f"{folder}/") : bisect_left(names, f"{folder}0")]


def _refuse(error: OSError) -> None:
    raise _unreadable(error, str(error.filename)) from error


def _unreadable(error: OSError, path: str) -> UserError:
    return UserError(Problem(f"cannot be read: {error.strerror or error}", file=path))
