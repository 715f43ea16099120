"""Where a run comes from, taken down by the harness and never by a plugin."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmark.environment import releases
from benchmark.version import __version__


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python, and of the libraries that figures depend on."""
    return {"purifier-benchmark": __version__, "python": platform.python_version(), **releases()}


def provenance(device: str) -> dict[str, Any]:
    """Versions, git commit and whether the tree was dirty, machine, device, command."""
    return {
        "versions": versions(),
        "git": _git(),
        "machine": {"platform": platform.platform(), "processor": platform.machine()},
        "device": device,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _git() -> dict[str, Any] | None:
    folder = Path(__file__).parent

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None  # an installed package has no repository
