"""Pausing Python's garbage collector while a plan is made."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PAUSE = threading.RLock()
"""The collector is global: a thread must not mistake the pause of another thread for the earlier state."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Disable the cyclic garbage collector, which scans the whole growing plan again and again.

    It takes a quarter of the time of planning thousands of cells, and finds no garbage there.
    """
    with _PAUSE:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()
