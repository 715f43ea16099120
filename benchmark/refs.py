"""What a plan knows of plugins without running them: names, versions, parameters, files, stated facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from benchmark.keys import Fixed, canonical, digest
from benchmark.plugin import Norm


@dataclass(frozen=True)
class Parameters:
    """The parameters of a plugin as JSON: all of them, and those that differ from the plugin's defaults."""

    config: Mapping[str, Any]
    changed: Mapping[str, Any]


@dataclass(frozen=True)
class DeclaredFile:
    """A file that a parameter names: where it is, and the SHA-256 of its content."""

    path: Path
    sha256: str


@dataclass(frozen=True, eq=False)
class PluginRef:
    """A plugin with its version and its parameters.

    `config` has all parameters and `changed` those that differ from the defaults of the plugin's class: a
    new parameter with a default changes no key. `code` identifies the code of a plugin that is not built
    in, for nobody raises the version of a draft. `files` are what parameters name.
    """

    kind: ClassVar[str]

    name: str
    config: Mapping[str, Any]
    changed: Mapping[str, Any]
    version: int = 1
    code: Mapping[str, Any] | None = None
    files: Mapping[str, DeclaredFile] = field(default_factory=dict)

    @cached_property
    def content(self) -> Fixed:
        """What results depend on."""
        return Fixed(self.limited_to(self.config.keys()))

    def limited_to(self, fields: Collection[str]) -> dict[str, Any]:
        """What results depend on that depend on these parameters alone."""
        code = {} if self.code is None else {"code": dict(self.code)}
        config = {name: value for name, value in self._identifying.items() if name in fields}
        return {"name": self.name, "version": self.version, "config": config} | code

    @cached_property
    def _identifying(self) -> dict[str, Any]:
        """The parameters that differ from their defaults; of a file its content counts, not its place."""
        digests = {name: {"sha256": file.sha256} for name, file in self.files.items()}
        return dict(self.changed) | digests

    @property
    def shown(self) -> dict[str, Any]:
        """The parameters, and one digest for the content of all that they name."""
        digests = self._digests
        return {**self.config, **({"sha256": digest(digests)} if digests else {})}

    @property
    def _digests(self) -> dict[str, str]:
        return {name: file.sha256 for name, file in self.files.items()}

    @cached_property
    def config_text(self) -> str:
        """The parameters as a column of the records."""
        return canonical(self.shown)


@dataclass(frozen=True, eq=False)
class DatasetRef(PluginRef):
    """A data set and the fingerprint of its images; `apart` names parameters that do not change them."""

    kind = "dataset"

    images: str = ""
    test_size: int = 0
    class_names: tuple[str, ...] = ()
    apart: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The name, with the parameters that were changed: two settings of a data set are two data sets."""
        return f"{self.name} {canonical(dict(self.changed))}" if self.changed else self.name

    @property
    def resolved(self) -> dict[str, Any]:
        """All that is known of it but the class names."""
        return {**self.content, "config": dict(self.config)}

    @cached_property
    def content(self) -> Fixed:
        """What results depend on: the same images in another place are the same data set."""
        return Fixed(self.limited_to(self.config.keys() - self.apart), images=self.images)


@dataclass(frozen=True, eq=False)
class TargetRef(PluginRef):
    """A classifier: trained here, or given, and then with digests of what some parameters stand for."""

    kind = "target"

    trainable: bool = True
    rests_on: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _identifying(self) -> dict[str, Any]:
        return {**super()._identifying, **self.rests_on}

    def seed(self, seed: int | None) -> int | None:
        """The seed of its training: none where it is given, 0 where another classifier's was none."""
        return (seed or 0) if self.trainable else None

    @property
    def _digests(self) -> dict[str, str]:
        return {**super()._digests, **self.rests_on}


@dataclass(frozen=True, eq=False)
class DefenseRef(PluginRef):
    """A defense on one data set, and the facts that it states.

    `surrogates` are the names of its differentiable stand-ins, `latents` of another with a latent space;
    `train_fields` are those that its weights depend on; `in_attack` is the cheaper setting that attacks
    run, where there is one; `preset_changed` tells that the training is not the one of its preset.
    """

    kind = "defense"

    trainable: bool = False
    stochastic: bool = False
    control: bool = False
    decides_label: bool = False
    inner_optimisation: bool = False
    surrogates: tuple[str, ...] = ()
    latents: str | None = None
    gate: float = 0.05
    train_fields: frozenset[str] = frozenset()
    in_attack: Parameters | None = None
    preset_changed: bool = False


@dataclass(frozen=True)
class Unbounded:
    """An attack's setting in a ball that holds every image."""

    parameters: Parameters
    eps: float


@dataclass(frozen=True, eq=False)
class AttackRef(PluginRef):
    """An attack and the facts that it states; `unbounded` for attacks that a ball requires.

    `sweep_fields` may differ within one shared call; `train_fields` are those that its weights depend on.
    """

    kind = "attack"

    norm: Norm | None = None
    eps: float | None = None
    uses: str = "gradients"
    stochastic: bool = False
    takes_start: bool = False
    needs_determinism: bool = False
    needs_latents: bool = False
    grows: bool = False
    single_step: bool = False
    mandatory: bool = False
    targeted: bool = False
    trainable: bool = False
    backend: str = "native"
    weak_backend: bool = False
    unbounded: Unbounded | None = None
    shares_sweep: bool = False
    sweep_fields: frozenset[str] = frozenset()
    train_fields: frozenset[str] = frozenset()

    @property
    def shown(self) -> dict[str, Any]:
        """The parameters, less those with a column of their own."""
        return {name: value for name, value in super().shown.items() if name not in ("eps", "backend")}

    @property
    def seeded(self) -> bool:
        """Whether its images depend on a seed: its own draws, or its training."""
        return self.stochastic or self.trainable
