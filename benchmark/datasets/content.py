"""Fingerprints of files by their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmark.files import digest_of_file
from benchmark.writing import replacing

_LARGE = 256 * 2**20
"""Bytes from which on the fingerprint of a set of files is remembered."""


def fingerprint_of(files: Mapping[str, Path]) -> str:
    """SHA-256 over names and contents of files, whatever their order.

    Of 256 MiB and more, the result is remembered under `~/.cache/bench/fingerprints` with the name, size
    and modification time of every file; while these stay, the contents are not read again. So a file that
    is changed in place, keeping size and time, goes unnoticed there until one of the files is touched.

    Args:
        files: Where each file is, by the name that it has in the set.

    Raises:
        OSError: A file cannot be read.
    """
    names = sorted(files)
    stamp = hashlib.sha256()
    total = 0
    for name in names:
        found = files[name].stat()
        total += found.st_size
        stamp.update(f"{name}\0{files[name]}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    if total < _LARGE:
        return _read(names, files)
    memory = Path.home() / ".cache" / "bench" / "fingerprints" / f"{stamp.hexdigest()}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # nothing remembered, or half of it
        return str(json.loads(memory.read_text(encoding="utf-8"))["sha256"])
    found_now = _read(names, files)
    with suppress(OSError):  # a home that cannot be written only costs time
        memory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memory) as file:
            file.write(json.dumps({"sha256": found_now, "bytes": total}).encode())
    return found_now


def _read(names: list[str], files: Mapping[str, Path]) -> str:
    whole = hashlib.sha256()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name, digest in zip(
            names, pool.map(lambda name: digest_of_file(files[name]), names), strict=True
        ):
            whole.update(f"{name}\0{digest}\n".encode())
    return whole.hexdigest()
