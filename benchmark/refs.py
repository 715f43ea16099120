"""What a plan knows of plugins without running them: names, configurations, fingerprints, stated facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmark.keys import Fixed, canonical, digest
from benchmark.plugin import Norm


@dataclass(frozen=True, eq=False)
class PluginRef:
    """A plugin with its configuration, defaults filled in, and the fingerprint of its code."""

    name: str
    config: Mapping[str, Any]
    code: str

    @cached_property
    def content(self) -> Fixed:
        return Fixed(name=self.name, config=dict(self.config), code=self.code)

    @cached_property
    def config_text(self) -> str:
        """The parameters as a column of the records."""
        return canonical(dict(self.config))


@dataclass(frozen=True, eq=False)
class DatasetRef(PluginRef):
    """A data set and the fingerprint of its images.

    `changed` are the parameters that are not the default; `apart` names those that do not change the images.
    """

    images: str = ""
    test_size: int = 0
    class_names: tuple[str, ...] = ()
    changed: Mapping[str, Any] = field(default_factory=dict)
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
        config = {name: value for name, value in self.config.items() if name not in self.apart}
        return Fixed(super().content, config=config, images=self.images)


@dataclass(frozen=True, eq=False)
class TargetRef(PluginRef):
    """A classifier: trained here, or given, and then with digests of what some parameters stand for."""

    trainable: bool = True
    rests_on: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def content(self) -> Fixed:
        """Of a file the content counts, not where it lies."""
        return Fixed(super().content, config={**self.config, **self.rests_on})

    @cached_property
    def config_text(self) -> str:
        """The parameters as a column of the records, and one digest for all that they stand for."""
        return canonical(self.shown)

    def seed(self, seed: int | None) -> int | None:
        """The seed of its training: none where it is given, 0 where another classifier's was none."""
        return (seed or 0) if self.trainable else None

    @property
    def shown(self) -> dict[str, Any]:
        """The parameters, and one digest for all that they stand for."""
        return {**self.config, **({"sha256": digest(dict(self.rests_on))} if self.rests_on else {})}


@dataclass(frozen=True, eq=False)
class DefenseRef(PluginRef):
    """A defense on one data set, and the facts that it states.

    `surrogates` are the names of its differentiable stand-ins, `latents` of another with a latent space;
    `train_fields` are those that its weights depend on; `in_attack` is the cheaper setting that attacks
    run, where there is one; `preset_changed` tells that the training is not the one of its preset.
    """

    trainable: bool = False
    stochastic: bool = False
    control: bool = False
    decides_label: bool = False
    inner_optimisation: bool = False
    surrogates: tuple[str, ...] = ()
    latents: str | None = None
    gate: float = 0.05
    train_fields: frozenset[str] = frozenset()
    in_attack: Mapping[str, Any] | None = None
    preset_changed: bool = False


@dataclass(frozen=True)
class Unbounded:
    """An attack's setting in a ball that holds every image."""

    config: Mapping[str, Any]
    eps: float


@dataclass(frozen=True, eq=False)
class AttackRef(PluginRef):
    """An attack and the facts that it states; `unbounded` for attacks that a ball requires.

    `sweep_fields` may differ within one shared call; `train_fields` are those that its weights depend on.
    """

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
        return {name: value for name, value in self.config.items() if name not in ("eps", "backend")}

    @cached_property
    def config_text(self) -> str:
        """The parameters as a column of the records."""
        return canonical(self.shown)

    @property
    def seeded(self) -> bool:
        """Whether its images depend on a seed: its own draws, or its training."""
        return self.stochastic or self.trainable
