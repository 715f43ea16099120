"""What the tasks of a run need beside time, and which of them fit on the machine at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmark.execution.devices import total_memory
from benchmark.plan.tasks import Task
from benchmark.plugins.plugin import Resources
from benchmark.plugins.registry import Registry


class ResourceModel:
    """The resources of tasks: those that the grid says, else the most that one of their plugins declares.

    Args:
        registry: Has the plugins of the run.
        given: What the grid says, by the name of a plugin or of a kind of task; the kind of task comes first.
        memory: Main memory of the machine in GiB; by default it is looked up.
    """

    def __init__(
        self, registry: Registry, given: Mapping[str, Resources], memory: float | None = None
    ) -> None:
        self._registry = registry
        self._given = given
        self._memory = total_memory() if memory is None else memory
        self._known: dict[tuple[str, ...], Resources] = {}

    def of(self, task: Task) -> Resources:
        """What a task needs."""
        plugins = [(plugin.kind, plugin.name) for plugin in task.runs]
        group = (task.kind, *(name for _, name in plugins))
        if group not in self._known:
            declared = [self._given.get(name) or self._declared(kind, name) for kind, name in plugins]
            most = Resources(
                memory=max(needs.memory for needs in declared), gpu=max(needs.gpu for needs in declared)
            )
            self._known[group] = self._given.get(task.kind) or most
        return self._known[group]

    def fits(self, task: Task, running: Iterable[Task]) -> bool:
        """Whether the memory is enough for a task beside those that run; alone every task fits."""
        beside = [self.of(other).memory for other in running]
        return not beside or sum(beside) + self.of(task).memory <= self._memory

    def per_gpu(self, tasks: Iterable[Task]) -> int:
        """How many of these tasks may share a GPU."""
        return int(1 / max((self.of(task).gpu for task in tasks), default=1.0))

    def _declared(self, kind: str, name: str) -> Resources:
        return self._registry.get(kind, name).load().resources
