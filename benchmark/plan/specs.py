"""Plugins as data: names, versions, parameters, files and declared properties. A spec holds no tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from benchmark.plugins.plugin import Config, Norm
from benchmark.storage.keys import FrozenJson, canonical, digest


@dataclass(frozen=True)
class ConfigSpec:
    """The parameters of a plugin as JSON: all of them, and those that differ from the plugin's defaults."""

    config: Mapping[str, Any]
    changed: Mapping[str, Any]

    @classmethod
    def of(cls, config: Config) -> ConfigSpec:
        return cls(config.model_dump(mode="json"), config.model_dump(mode="json", exclude_defaults=True))


@dataclass(frozen=True)
class DeclaredFile:
    """A file that a parameter names: its path, and the SHA-256 digest of its content."""

    path: Path
    sha256: str


@dataclass(frozen=True, eq=False)
class PluginSpec:
    """A plugin with its version and its parameters.

    `config` has all parameters. `changed` has only those that differ from the defaults of the plugin's
    class, so that a new parameter with a default changes no key. `code` identifies the code of a plugin
    that is not built in, because authors do not raise the version of a draft at every change. `files` are
    the files that parameters name.
    """

    kind: ClassVar[str]

    name: str
    config: Mapping[str, Any]
    changed: Mapping[str, Any]
    version: int = 1
    code: Mapping[str, Any] | None = None
    files: Mapping[str, DeclaredFile] = field(default_factory=dict)

    @cached_property
    def content(self) -> FrozenJson:
        """Everything about the plugin that results depend on."""
        return FrozenJson(self.limited_to(self.config.keys()))

    def limited_to(self, fields: Collection[str]) -> dict[str, Any]:
        """Everything about the plugin that a result depends on, if it depends on these parameters only."""
        code = {} if self.code is None else {"code": dict(self.code)}
        config = {name: value for name, value in self._identifying.items() if name in fields}
        return {"name": self.name, "version": self.version, "config": config} | code

    @cached_property
    def _identifying(self) -> dict[str, Any]:
        """The parameters that differ from their defaults. Files are identified by content, not by path."""
        return {**self.changed, **{name: {"sha256": file.sha256} for name, file in self.files.items()}}

    @property
    def shown(self) -> dict[str, Any]:
        """The parameters, and one digest of the content of all files that they name."""
        digests = self._digests
        return {**self.config, **({"sha256": digest(digests)} if digests else {})}

    @property
    def _digests(self) -> dict[str, str]:
        return {name: file.sha256 for name, file in self.files.items()}

    @cached_property
    def config_text(self) -> str:
        """The parameters as text, for a column of the records."""
        return canonical(self.shown)


@dataclass(frozen=True, eq=False)
class DatasetSpec(PluginSpec):
    """A data set and the fingerprint of its images; `apart` names parameters that do not change images."""

    kind = "dataset"

    images: str = ""
    test_size: int = 0
    class_names: tuple[str, ...] = ()
    apart: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The name and the changed parameters, because two settings of a data set are two data sets."""
        return f"{self.name} {canonical(dict(self.changed))}" if self.changed else self.name

    @property
    def resolved(self) -> dict[str, Any]:
        """The content with all parameters, also those at their defaults."""
        return {**self.content, "config": dict(self.config)}

    @cached_property
    def content(self) -> FrozenJson:
        """As for every plugin. The same images at another path are the same data set."""
        return FrozenJson(self.limited_to(self.config.keys() - self.apart), images=self.images)


@dataclass(frozen=True, eq=False)
class TargetSpec(PluginSpec):
    """A trainable or pretrained classifier; `rests_on` has digests of what its parameters refer to."""

    kind = "target"

    trainable: bool = True
    rests_on: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _identifying(self) -> dict[str, Any]:
        return {**super()._identifying, **self.rests_on}

    def seed(self, seed: int | None) -> int | None:
        """The seed of its training: None if it is pretrained, 0 if `seed` is None."""
        return (seed or 0) if self.trainable else None

    @property
    def _digests(self) -> dict[str, str]:
        return {**super()._digests, **self.rests_on}


@dataclass(frozen=True, eq=False)
class DefenseSpec(PluginSpec):
    """A defense on one data set, with its declared properties.

    `surrogates` are the names of its differentiable surrogates; `latents` names one with a latent space.
    `train_fields` are the parameters that its weights depend on. `in_attack` is the cheaper setting that
    attacks run, if it has one. `preset_changed`: its training differs from that of its preset.
    """

    kind = "defense"

    trainable: bool = False
    stochastic: bool = False
    control: bool = False
    is_identity: bool = False
    decides_label: bool = False
    inner_optimisation: bool = False
    surrogates: tuple[str, ...] = ()
    latents: str | None = None
    gate: float = 0.05
    train_fields: frozenset[str] = frozenset()
    in_attack: ConfigSpec | None = None
    preset_changed: bool = False


@dataclass(frozen=True, eq=False)
class AttackSpec(PluginSpec):
    """An attack with its declared properties.

    `unbounded` has the parameters and the `eps` in a ball that holds every image; it is set for mandatory
    gradient attacks that have an `eps`.
    `sweep_fields` are the parameters that may differ within one shared call; `train_fields` are those that
    its weights depend on.
    """

    kind = "attack"

    norm: Norm | None = None
    eps: float | None = None
    uses: str = "gradients"
    stochastic: bool = False
    takes_start: bool = False
    needs_determinism: bool = False
    needs_latents: bool = False
    scalable: bool = False
    single_step: bool = False
    mandatory: bool = False
    targeted: bool = False
    trainable: bool = False
    backend: str = "native"
    weak_backend: bool = False
    unbounded: tuple[ConfigSpec, float] | None = None
    shares_sweep: bool = False
    sweep_fields: frozenset[str] = frozenset()
    train_fields: frozenset[str] = frozenset()

    @property
    def shown(self) -> dict[str, Any]:
        """The parameters, without those that have their own column."""
        return {name: value for name, value in super().shown.items() if name not in ("eps", "backend")}

    @property
    def seeded(self) -> bool:
        """Whether its images depend on a seed, through its random draws or its training."""
        return self.stochastic or self.trainable
