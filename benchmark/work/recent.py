"""What was used last, kept as far as there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key; the least recently used give way.

    Args:
        room: How much may be kept in all; the newest value is, however large.
        size: What a value takes of the room.
    """

    def __init__(self, room: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self._room = room
        self._size = size
        self._values: OrderedDict[str, T] = OrderedDict()
        self._taken = 0

    def get(self, key: str, load: Callable[[], T]) -> T:
        """The value of a key; loaded where it is not kept."""
        if key not in self._values:
            value = load()
            self._taken += self._size(value)
            self._values[key] = value
            while self._taken > self._room and len(self._values) > 1:
                self._taken -= self._size(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]
