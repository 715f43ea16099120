"""The task `ExternalImages`: the harness cannot compute such images, it can only find them in the store."""

from __future__ import annotations

from benchmark.errors import PluginError
from benchmark.execution.context import ExecutionContext
from benchmark.plan.tasks import ExternalImages


def missing_images(task: ExternalImages, context: ExecutionContext) -> None:
    """Fail, because the store does not have the images."""
    raise PluginError(f"the images from {task.origin} are not in the store: pass them to `bench judge` again")
