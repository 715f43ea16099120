"""Finds the checkout of the repository that this package runs from, if there is one."""

from __future__ import annotations

import os

PLUGIN_FOLDERS = ("attacks", "defenses", "targets")


def checkout() -> str | None:
    """The absolute path of the checkout that contains this package; None if it is installed from a wheel."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    names = ("setup.cfg", *PLUGIN_FOLDERS)
    return root if all(os.path.exists(os.path.join(root, name)) for name in names) else None
