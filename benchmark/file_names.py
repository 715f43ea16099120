"""Names that come from outside and become files: the one place that says which of them are safe."""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.errors import UserError

_LONGEST = 200
"""Bytes; file systems allow 255, and some names get a suffix."""


def name_fault(name: object) -> str | None:
    """Why a name cannot name a file or folder right inside another folder; None if it can.

    The rules are the same on every system, so that a folder made on one can be read on another.
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
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid text"
    return f"is longer than {_LONGEST} bytes" if size > _LONGEST else None


def child(folder: Path, name: object) -> Path:
    """The path of a file or folder right inside `folder`.

    Raises:
        UserError: The name is not a plain one, or it is a link that leads out of `folder`.
    """
    fault = name_fault(name)
    if fault is not None:
        raise UserError(f"{name!r} cannot name anything in {folder}: it {fault}")
    return inside(folder, folder / str(name))


def inside(folder: Path, path: Path) -> Path:
    """`path`, if no link leads it out of `folder`.

    Raises:
        UserError: A link does.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} is a link that leads out of {folder}")
    return path
