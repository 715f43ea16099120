"""Content keys: the key of a result is the hash of everything that the result is declared to depend on.

This module hashes. What goes into the key of a task says `Task.key` (`benchmark/plan/tasks/base.py`), and
into the key of a row `Cell.key` (`benchmark/plan/cells.py`).
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

SCHEMA = 2
"""The schema of keys. Keys of schema 1 also hashed code and the versions of libraries."""

_quote = json.encoder.encode_basestring_ascii
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class FrozenJson(dict[str, Any]):
    """Immutable JSON mapping with its canonical encoding cached."""

    @cached_property
    def text(self) -> str:
        return canonical(dict(self))


def canonical(value: Any) -> str:
    """`value` (JSON types only) as JSON text; equal values give equal text."""
    if isinstance(value, FrozenJson):
        return value.text
    if type(value) is dict and FrozenJson in map(type, value.values()):
        return "{" + ",".join([f"{_quote(name)}:{_encode(value[name])}" for name in sorted(value)]) + "}"
    return _ENCODER.encode(value)


def _encode(value: Any) -> str:
    """As `canonical`, but faster: the most common types need no encoder."""
    kind = type(value)
    if kind is str:
        return _quote(value)
    if kind is FrozenJson:
        return value.text  # type: ignore[no-any-return]
    if value is None:
        return "null"
    if kind is int:
        return str(value)
    return "[" + ",".join(map(_encode, value)) + "]" if kind is list else canonical(value)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def seed_from(purpose: str, *parts: Any) -> int:
    """Derive a 63-bit seed from a purpose and from names.

    `parts` are roles, data sets, plugins and seed numbers, but never versions or parameters. Two settings of
    one plugin thus use the same random numbers, and their results differ because of the setting alone.
    """
    return int(digest([purpose, *parts])[:16], 16) >> 1
