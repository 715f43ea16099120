"""Programs that measure the harness itself: masking, strength, speed, costs, AutoAttack, mutants."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def data_root() -> Path | None:
    """The folder of the real images; None if `BENCH_DATA` names no folder with MNIST."""
    folder = os.environ.get("BENCH_DATA")
    return Path(folder) if folder and (Path(folder) / "MNIST").is_dir() else None
