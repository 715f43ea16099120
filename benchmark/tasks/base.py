"""What every unit of work is: something with a key that follows from all that its result depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from benchmark.keys import Fixed, digest
from benchmark.refs import DatasetRef

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
class Protocol:
    """The harness's own part in a result: fingerprints of the code that does each kind of task."""

    code: Mapping[str, str]
    shard_size: int = SHARD_SIZE

    def of(self, kind: str) -> Fixed:
        return self._kinds[kind]

    @cached_property
    def _kinds(self) -> dict[str, Fixed]:
        return {kind: Fixed(code=code, shard_size=self.shard_size) for kind, code in self.code.items()}


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
    """A unit of work. `kind` names it, `label` is the plugin that the work is about."""

    protocol: Protocol = field(repr=False)

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

    @cached_property
    def key(self) -> str:
        return digest({"kind": self.kind, "protocol": self.protocol.of(self.kind)} | self.content())
