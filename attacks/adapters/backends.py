"""Base classes of attacks with a native implementation and implementations of other libraries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from benchmark.attacks.steps.goal import Goal, TargetedConfig
from pydantic import model_validator
from torch import Tensor
from typing_extensions import Self

from benchmark.api import Attack, Config, Noise, Surface


class BackendConfig(Config):
    """A configuration with a field `backend`.

    unsupported_options: For each backend the options that it does not have. Setting one of them is an error:
        an option that is accepted and ignored would put a false description into the tables.
    """

    unsupported_options: ClassVar[Mapping[str, frozenset[str]]] = {}
    backend: Any

    @model_validator(mode="after")
    def _refuse_unsupported_options(self) -> Self:
        for name in sorted(self.unsupported_options.get(self.backend, ())):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: backend {self.backend} has no such option")
        return self

    def goal(self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise) -> Goal:
        """The goal of an attack without the option `targeted`: any wrong class."""
        return Goal(labels)


class TargetedBackendConfig(TargetedConfig, BackendConfig):
    """A configuration with the fields `backend` and `targeted`."""


BackendConfigT = TypeVar("BackendConfigT", bound=BackendConfig)


class MultiBackendAttack(Attack[BackendConfigT]):
    """An attack with a field `backend` and one method for each value of that field."""

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
        """Run this project's implementation; arguments and result as in `craft`."""

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        """Run Foolbox's implementation; only called if `backend` can be `foolbox`."""
        raise NotImplementedError(f"{type(self).__name__} has no backend foolbox")

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        """Run ART's implementation; only called if `backend` can be `art`."""
        raise NotImplementedError(f"{type(self).__name__} has no backend art")
