"""The task of external adversarial images: `bench judge` stores its result, and it cannot be computed."""

from __future__ import annotations

from benchmark.errors import PluginError
from benchmark.execution.context import ExecutionContext
from benchmark.plan.tasks import ExternalImages


def missing_images(task: ExternalImages, context: ExecutionContext) -> None:
    """Raise PluginError: the task only runs if the store has lost the images."""
    raise PluginError(f"the images from {task.origin} are not in the store: pass them to `bench judge` again")
