"""Images that somebody made elsewhere: the harness stores them and cannot make them."""

from __future__ import annotations

from benchmark.errors import PluginError
from benchmark.tasks import Handed
from benchmark.work.workshop import Workshop


def missing_images(task: Handed, workshop: Workshop) -> None:
    """Fail: the images are not in the store.

    Raises:
        PluginError: Always; names where the images came from.
    """
    raise PluginError(f"images handed in from {task.origin} are not in the store: hand them in again")
