"""The base class of tasks, the shards that they work on, and the interner that shares them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from benchmark.plan.specs import DatasetSpec, PluginSpec
from benchmark.storage.keys import SCHEMA, FrozenJson, digest, seed_from

SHARD_SIZE = 100
"""Images per shard: the unit of caching and of resuming, and the batch size at which images are judged."""

T = TypeVar("T")


class Interner:
    """Creates each object once: a second call with the same arguments returns the first object.

    The cells of a plan share images, purifiers and surfaces, so the key of each is computed only once.
    Arguments are compared as dictionary keys are; specs are compared by identity.
    """

    def __init__(self) -> None:
        self._objects: dict[tuple[Any, ...], Any] = {}

    def __call__(self, factory: Callable[..., T], *args: Any) -> T:
        key = (factory, *args)
        known = self._objects.get(key)
        if known is None:
            known = self._objects[key] = factory(*args)
        return known


@dataclass(frozen=True, eq=False)
class Shard:
    """Test images `start` to `stop` of the fixed order."""

    dataset: DatasetSpec
    start: int
    stop: int

    @property
    def indices(self) -> range:
        return range(self.start, self.stop)

    @cached_property
    def content(self) -> FrozenJson:
        return FrozenJson(dataset=self.dataset.content, start=self.start, stop=self.stop)


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A unit of work; `kind` names the type of work.

    The fields of a subclass hold everything that the result depends on. The methods of this class derive the
    key, the needed tasks and the plugins from the fields. A subclass overrides those that need more.

    `version` is raised when the harness changes how it does this kind of work and results change.
    """

    version: ClassVar[int] = 1

    @property
    @abstractmethod
    def kind(self) -> str: ...

    @property
    def label(self) -> str:
        """The name of the plugin that the work is about: the first one that it runs."""
        return self.runs[0].name

    def content(self) -> dict[str, Any]:
        """Everything that the result depends on, as JSON."""
        return {field.name: _content(getattr(self, field.name)) for field in fields(self)}

    def needs(self) -> tuple[Task, ...]:
        """The tasks whose results this task reads."""
        return tuple(task for field in fields(self) for task in _needs(getattr(self, field.name)))

    @property
    @abstractmethod
    def stream(self) -> tuple[Any, ...]:
        """Identifies the random numbers of this task: roles, the data set, plugins and seed numbers."""

    @property
    def runs(self) -> tuple[PluginSpec, ...]:
        """The plugins whose code this task runs, without those of the tasks that it needs."""
        return tuple(plugin for field in fields(self) for plugin in _runs(getattr(self, field.name)))

    def seed_for(self, purpose: str, *more: Any) -> int:
        """A seed for one purpose within this task."""
        return seed_from(purpose, *self.stream, *more)

    @cached_property
    def key(self) -> str:
        return digest({"schema": SCHEMA, "kind": self.kind, "version": self.version} | self.content())


def _content(value: Any) -> Any:
    """A field of a task as JSON: its key, the content of a spec or shard, or the plain value."""
    if isinstance(value, tuple):
        return [_content(member) for member in value]
    if isinstance(value, PluginSpec | Shard):
        return value.content
    return getattr(value, "key", value)


def _needs(value: Any) -> Iterable[Task]:
    """The tasks that a field of a task needs: the field itself, or those of its surface or purifier."""
    if isinstance(value, tuple):
        return [task for member in value for task in _needs(member)]
    if isinstance(value, Task):
        return (value,)
    return value.needs() if hasattr(value, "needs") else ()


def _runs(value: Any) -> Iterable[PluginSpec]:
    """The plugins that a field of a task runs: the field itself, or those of its surface or purifier."""
    if isinstance(value, tuple):
        return [plugin for member in value for plugin in _runs(member)]
    if isinstance(value, PluginSpec):
        return () if isinstance(value, DatasetSpec) else (value,)
    return value.runs if hasattr(value, "runs") and not isinstance(value, Task) else ()
