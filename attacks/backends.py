"""Attacks that may also run through another library."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import model_validator
from torch import Tensor
from typing_extensions import Self

from attacks.contract import Attack, Surface
from attacks.goal import AimedConfig, Goal
from benchmark.noise import Noise
from benchmark.plugin import Config


class LibraryConfig(Config):
    """A configuration with a field `backend`.

    lacks: For each backend the options that it has no equal of. To ask for one is an error: an option
        that is accepted and does nothing would put a false description into the tables.
    """

    lacks: ClassVar[Mapping[str, frozenset[str]]] = {}
    backend: Any

    @model_validator(mode="after")
    def _refuse_what_the_backend_lacks(self) -> Self:
        for name in sorted(self.lacks.get(self.backend, ())):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: backend {self.backend} has no such option")
        return self

    def goal(self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise) -> Goal:
        """To be wrong: what an attack without `targeted` aims at."""
        return Goal(labels)


class BackedConfig(AimedConfig, LibraryConfig):
    """A configuration with fields `backend` and `targeted`."""


LibraryConfigT = TypeVar("LibraryConfigT", bound=LibraryConfig)


class Backed(Attack[LibraryConfigT]):
    """An attack with a field `backend`: one method for each value that the field may have."""

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        goal = self.config.goal(surface, x, labels, noise)
        match self.config.backend:
            case "native":
                return self.native(surface, x, goal, noise, start)
            case "foolbox":
                return self.foolbox(surface, x, goal)
            case "art":
                return self.art(surface, x, goal)
        raise NotImplementedError(f"{type(self).__name__} has no backend {self.config.backend}")

    @abstractmethod
    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        """Our own; like `craft`."""

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        """Foolbox's, where `backend` may be that."""
        raise NotImplementedError(f"{type(self).__name__} has no backend foolbox")

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        """ART's, where `backend` may be that."""
        raise NotImplementedError(f"{type(self).__name__} has no backend art")
