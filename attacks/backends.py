"""Attacks that may also run through another library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator
from typing_extensions import Self

from attacks.goal import AimedConfig
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


class BackedConfig(LibraryConfig, AimedConfig):
    """A configuration with fields `backend` and `targeted`."""
