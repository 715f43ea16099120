"""Content keys: the identity of a unit of work is the hash of everything that its result depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """`value` (JSON types only) as JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def seed_from(*parts: Any) -> int:
    """A 63-bit seed derived from `parts`, so that randomness follows from a task's key."""
    return int(digest(list(parts))[:16], 16) >> 1
