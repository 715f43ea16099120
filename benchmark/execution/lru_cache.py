"""A cache that drops the least recently used values, with a limit on their total size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LRUCache(Generic[T]):
    """Values by key. `functools.lru_cache` counts entries only; this cache can count bytes.

    The newest value is kept even if it alone is larger than the capacity.
    """

    def __init__(self, capacity: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self._capacity = capacity
        self._size = size
        self._values: OrderedDict[str, T] = OrderedDict()
        self._total = 0

    def get(self, key: str, load: Callable[[], T]) -> T:
        """The value of a key; calls `load` if the cache does not have it."""
        if key not in self._values:
            value = load()
            self._total += self._size(value)
            self._values[key] = value
            while self._total > self._capacity and len(self._values) > 1:
                self._total -= self._size(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]
