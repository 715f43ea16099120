"""Content keys: a unit of work is named by the hash of what its result is declared to depend on."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

SCHEMA = 2
"""What keys are made of. Those of schema 1 hashed code and the releases of libraries."""

_quoted = json.encoder.encode_basestring_ascii
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class Fixed(dict[str, Any]):
    """A JSON mapping that changes no more and is part of many others: its text is worked out once."""

    @cached_property
    def text(self) -> str:
        return canonical(dict(self))


def canonical(value: Any) -> str:
    """`value` (JSON types only) as JSON text that is the same for equal values."""
    if isinstance(value, Fixed):
        return value.text
    if type(value) is dict and Fixed in map(type, value.values()):
        return "{" + ",".join([f"{_quoted(name)}:{_told(value[name])}" for name in sorted(value)]) + "}"
    return _ENCODER.encode(value)


def _told(value: Any) -> str:
    """As `canonical`: what most mappings are made of is told without the encoder."""
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is Fixed:
        return value.text  # type: ignore[no-any-return]
    if value is None:
        return "null"
    if kind is int:
        return str(value)
    if kind is list:
        return "[" + ",".join(map(_told, value)) + "]"
    return canonical(value)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def seed_from(purpose: str, *parts: Any) -> int:
    """A 63-bit seed for a purpose, derived from what names a source of random numbers.

    `parts` name roles, data sets, plugins and seed numbers. They never hold a version or a parameter: two
    settings of one plugin use the same random numbers, so that what differs is due to the setting.
    """
    return int(digest([purpose, *parts])[:16], 16) >> 1
