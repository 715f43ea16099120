"""Images in class folders: a directory, or a zip of one that is read in place."""

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

from benchmark.datasets.content import fingerprint_of
from benchmark.errors import Problem, UserError

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Names of image files end so, in small letters or large; other files are left alone."""


class Tree(ABC):
    """Files and folders by names relative to the top, with slashes; "" is the top itself.

    What begins with a dot, and `__MACOSX`, is left out.

    Args:
        path: The directory or the zip.
        names: All files in it.
        folders: All folders in it, the empty ones too.
    """

    def __init__(self, path: Path, names: Iterable[str], folders: Iterable[str]) -> None:
        self.path = path
        visible = sorted(name for name in names if _visible(name))
        if (odd := next((name for name in visible if not _is_text(name)), None)) is not None:
            shown = odd.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise UserError(Problem("has a name that is not UTF-8", file=self.place(shown)))
        self._images = [name for name in visible if name.lower().endswith(IMAGES)]
        self._others = [name for name in visible if not name.lower().endswith(IMAGES)]
        self._children: dict[str, set[str]] = {}
        for folder in filter(_visible, folders):
            for child in (PurePosixPath(folder), *PurePosixPath(folder).parents):
                if child.name:
                    parent = "" if str(child.parent) == "." else str(child.parent)
                    self._children.setdefault(parent, set()).add(child.name)

    def folders_in(self, folder: str) -> list[str]:
        """Names of the folders right in a folder, sorted."""
        return sorted(self._children.get(folder, ()))

    def images_below(self, folder: str) -> list[str]:
        """The images in a folder and in all below it, sorted."""
        return _below(self._images, folder)

    def images_in(self, folder: str) -> list[str]:
        """The images right in a folder, sorted."""
        depth = len(PurePosixPath(folder).parts) + 1
        return [name for name in self.images_below(folder) if name.count("/") + 1 == depth]

    def others_below(self, folder: str) -> list[str]:
        """The files in a folder and below it that are no images."""
        return _below(self._others, folder)

    def place(self, name: str) -> str:
        """Where a file or folder is, for people."""
        return f"{self.path}/{name}" if name else str(self.path)

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            UserError: It cannot be read.
        """

    @abstractmethod
    def fingerprint(self, names: Iterable[str]) -> str:
        """SHA-256 that changes when one of these files does."""


class Directory(Tree):
    """A directory; links are followed."""

    def __init__(self, path: Path) -> None:
        names: list[str] = []
        folders: list[str] = []
        for at, below, files in os.walk(path, followlinks=True, onerror=_refuse):
            inside = Path(at).relative_to(path).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            for name in below:
                _refuse_loop(Path(at), name)
            names += [prefix + name for name in files]
            folders += [prefix + name for name in below]
        super().__init__(path, names, folders)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(
                Problem(f"cannot be read: {error.strerror or error}", file=self.place(name))
            ) from error

    def fingerprint(self, names: Iterable[str]) -> str:
        try:
            return fingerprint_of({name: self.path / name for name in names})
        except OSError as error:
            raise UserError(
                Problem(f"cannot be read: {error.strerror or error}", file=str(error.filename or self.path))
            ) from error


class Zip(Tree):
    """A zip file. Its fingerprint is that of the whole file."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            tar = isinstance(error, zipfile.BadZipFile) and tarfile.is_tarfile(path)
            hint = "a tar has to be unpacked first" if tar else None
            raise UserError(
                Problem(f"cannot be read as a zip: {error}", file=str(path), hint=hint)
            ) from error
        # two entries of one name are one file, the later of them; some programs write ./ or backslashes
        self._entries = {_plain(name): name for name in self._zip.namelist()}
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
            raise UserError(Problem(message, file=self.place(name))) from error

    def fingerprint(self, names: Iterable[str]) -> str:
        return fingerprint_of({"": self.path})


def open_tree(path: Path) -> Tree:
    """The directory, or the zip, at `path`.

    Raises:
        UserError: There is neither.
    """
    if path.is_dir():
        return Directory(path)
    if path.is_file():
        return Zip(path)
    raise UserError(Problem("there is no such folder or zip file", file=str(path)))


def class_images(tree: Tree, folder: str) -> dict[str, list[str]]:
    """The images of each class folder right in `folder`, by the class's name, sorted.

    Raises:
        UserError: A class has no image, an image has no class, or there are not two classes.
    """
    names = tree.folders_in(folder)
    if len(names) < 2:
        found = f"only {names[0]}/" if names else "no folder at all"
        raise UserError(
            Problem(
                f"two class folders at least are needed, there is {found}",
                file=tree.place(folder),
                hint="one folder for each class, images in it",
            )
        )
    stray = tree.images_in(folder)
    if stray:
        raise UserError(Problem("is in no class folder", file=tree.place(stray[0])))
    classes = {}
    for name in names:
        place = f"{folder}/{name}" if folder else name
        classes[name] = tree.images_below(place)
        if not classes[name]:
            raise UserError(Problem(f"class folder with {_instead(tree, place)}", file=tree.place(place)))
    return classes


def _instead(tree: Tree, folder: str) -> str:
    others = tree.others_below(folder)
    instead = f" but {len(others)} other files, such as {others[0].rpartition('/')[2]}" if others else ""
    return f"no images ({', '.join(IMAGES)}) in it{instead}"


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_loop(at: Path, name: str) -> None:
    """Refuse a link to a folder that it lies in: every image in there would be met again and again."""
    below = at / name
    if below.is_symlink() and at.resolve().is_relative_to(below.resolve()):
        raise UserError(Problem("is a link to a folder that it is in", file=str(below)))


def _below(names: list[str], folder: str) -> list[str]:
    if not folder:
        return names
    # sorted names that begin alike stand together; "0" comes right after "/"
    return names[bisect_left(names, f"{folder}/") : bisect_left(names, f"{folder}0")]


def _refuse(error: OSError) -> None:
    raise UserError(Problem(f"cannot be read: {error.strerror}", file=str(error.filename))) from error
