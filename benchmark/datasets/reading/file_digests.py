"""Fingerprints of files by their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmark.api import digest_of_file, replacing

_LARGE = 256 * 2**20
"""Total bytes of a set of files from which on its fingerprint is cached."""


def fingerprint_of(files: Mapping[str, Path]) -> str:
    """SHA-256 over the names and contents of files; their order does not matter.

    For 256 MiB and more, the result is cached in `~/.cache/bench/fingerprints` with the name, size and
    modification time of every file. The contents are read again only if one of these changes. So a file that
    is changed in place, with the same size and time, is not noticed.
    """
    names = sorted(files)
    stamp, total = hashlib.sha256(), 0
    for name in names:
        status = files[name].stat()
        total += status.st_size
        stamp.update(f"{name}\0{files[name]}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    if total < _LARGE:
        return _digest(names, files)
    cached = Path.home() / ".cache" / "bench" / "fingerprints" / f"{stamp.hexdigest()}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # the cache file is missing or damaged
        return str(json.loads(cached.read_text(encoding="utf-8"))["sha256"])
    fingerprint = _digest(names, files)
    with suppress(OSError):  # the home folder may be read-only; then the contents are read each time
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as file:
            file.write(json.dumps({"sha256": fingerprint, "bytes": total}).encode())
    return fingerprint


def _digest(names: list[str], files: Mapping[str, Path]) -> str:
    content = hashlib.sha256()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda name: digest_of_file(files[name]), names)
        for name, digest in zip(names, digests, strict=True):
            content.update(f"{name}\0{digest}\n".encode())
    return content.hexdigest()
