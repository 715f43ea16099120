"""Finds the checkout of the repository that this package runs from, if there is one."""

from __future__ import annotations

import os
import sys

PLUGIN_FOLDERS = ("attacks", "defenses", "targets")


def checkout() -> str | None:
    """The absolute path of the checkout that contains this package; None if it is installed from a wheel."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    names = ("setup.cfg", *PLUGIN_FOLDERS)
    return root if all(os.path.exists(os.path.join(root, name)) for name in names) else None


def users_path() -> list[str]:
    """`sys.path` without the folder of the checkout: its plugin folders are not packages of the user."""
    root = checkout()
    own = None if root is None else os.path.realpath(root)
    return [entry for entry in sys.path if os.path.realpath(entry) != own]
