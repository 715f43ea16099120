"""What every unit of work is: something with a key that follows from all that its result depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from benchmark.keys import SCHEMA, Fixed, digest, seed_from
from benchmark.refs import DatasetRef, PluginRef

SHARD_SIZE = 100
"""Images in a shard: the unit of caching, of resuming, and the batch in which images are judged."""


T = TypeVar("T")


class Once:
    """Makes each thing once: asked again for the same parts, it gives the same object back.

    A plan of many cells names the same images, purifiers and surfaces again and again, and the key of each
    object is worked out once. Parts are told apart as dictionaries do, references to plugins by identity.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Any] = {}

    def __call__(self, make: Callable[..., T], *parts: Any) -> T:
        name = (make, *parts)
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = make(*parts)
        return made


@dataclass(frozen=True, eq=False)
class Shard:
    """Test images `start` to `stop` of the fixed order."""

    dataset: DatasetRef
    start: int
    stop: int

    @property
    def indices(self) -> range:
        return range(self.start, self.stop)

    @cached_property
    def content(self) -> Fixed:
        return Fixed(dataset=self.dataset.content, start=self.start, stop=self.stop)


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A unit of work. `kind` names it, `label` is the plugin that the work is about.

    `version` is raised when the harness does this kind of work in another way, so that results change.
    """

    version: ClassVar[int] = 1

    @property
    @abstractmethod
    def kind(self) -> str: ...

    @property
    @abstractmethod
    def label(self) -> str: ...

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """All that the result depends on, as JSON."""

    @abstractmethod
    def needs(self) -> tuple[Task, ...]:
        """The tasks whose results this one reads."""

    @property
    @abstractmethod
    def stream(self) -> tuple[Any, ...]:
        """What names the random numbers of this work: roles, the data set, plugins and seed numbers."""

    @property
    @abstractmethod
    def runs(self) -> tuple[PluginRef, ...]:
        """The plugins whose code the work runs, beside those of the tasks that it needs."""

    def seed_for(self, purpose: str, *more: Any) -> int:
        """A seed for a purpose within this work."""
        return seed_from(purpose, *self.stream, *more)

    @cached_property
    def key(self) -> str:
        return digest({"schema": SCHEMA, "kind": self.kind, "version": self.version} | self.content())
