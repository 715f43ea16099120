"""Checks names from untrusted sources before they become names of files or folders."""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.errors import UserError


def name_fault(name: object) -> str | None:
    """Why a name cannot be the name of a file or folder directly inside another folder; None if it can.

    The rules are the same on every system, so a folder made on one can be read on another.
    """
    if not isinstance(name, str):
        return "is not text"
    if not name.strip():
        return "is empty"
    if name.startswith("."):
        return "begins with a dot"
    if re.search(r"[/\\:]", name):
        return "holds a slash, a backslash or a colon"
    if re.search(r"[\x00-\x1f\x7f]", name):
        return "holds a control character"
    try:
        # file systems allow 255, and some names get a suffix
        return "is longer than 200 bytes" if len(name.encode()) > 200 else None
    except UnicodeEncodeError:
        return "is not valid text"


def child(folder: Path, name: object) -> Path:
    """The path of a file or folder directly inside `folder`.

    Raises:
        UserError: The name has a fault (see `name_fault`), or it is a link that leads out of `folder`.
    """
    fault = name_fault(name)
    if fault is not None:
        raise UserError(f"{name!r} cannot name anything in {folder}: it {fault}")
    return inside(folder, folder / str(name))


def inside(folder: Path, path: Path) -> Path:
    """Return `path` if it lies inside `folder` after all links are resolved.

    Raises:
        UserError: A link leads out of `folder`.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} is a link that leads out of {folder}")
    return path
