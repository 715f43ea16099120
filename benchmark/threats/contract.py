"""What a threat decides, as data: the ways in which its attacker may change an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from benchmark.plugin import Config, param
from benchmark.refs import AttackRef
from benchmark.tasks import Candidate, Craft, Protocol, Purifier, Purify, Shard, SurfaceSpec, TrainTarget


@dataclass(frozen=True, eq=False)
class Setting:
    """One cell on one shard, as a threat sees it."""

    protocol: Protocol
    target: TrainTarget
    purifier: Purifier
    attack: AttackRef
    attack_seed: int | None
    shard: Shard
    eot: int = 1

    def surface(self, form: str) -> SurfaceSpec:
        """The surface of that form, as attacks run it; "target" leaves the defense out."""
        if form == "target":
            return SurfaceSpec(form, self.target)
        draws = self.eot if self.purifier.stochastic else None
        return SurfaceSpec(form, self.target, self.purifier.in_attack, draws)

    def craft(self, form: str, start: Craft | None = None) -> Craft:
        """The attack on the surface of that form."""
        return Craft(self.protocol, self.attack, self.surface(form), self.shard, self.attack_seed, start)

    def candidate(self, route: str, craft: Craft | None) -> Candidate:
        return Candidate(route, craft, Purify(self.protocol, self.purifier, self.shard, craft))


class ThreatConfig(Config):
    """`judge`: how a random pipeline is judged; `one` is a single fresh draw."""

    judge: Literal["one"] = param("one")


class Threat(ABC):
    """What the attacker knows: a name, a sentence for the tables, and the candidates.

    `title` heads the column of errors; `nested` names the weaker threats whose images count here too.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    title: ClassVar[str]
    nested: ClassVar[tuple[str, ...]] = ()
    config_type: ClassVar[type[ThreatConfig]] = ThreatConfig
    probes: ClassVar[tuple[str, ...]] = ("target",)
    """Forms of the surfaces whose gradients are examined for each shard, the last being what is attacked."""
    starts_from_target_only: ClassVar[bool] = False
    """Whether attacks that can begin elsewhere also begin at the target-only image."""
    images_made_on_target: ClassVar[bool]
    """Whether the defense has no part in the images, so that `recovered` (right again) means anything."""

    @classmethod
    def refuses(cls, attack: AttackRef, purifier: Purifier) -> str | None:
        """Why this attack on this purifier has no place under this threat, or None."""
        if attack.needs_determinism and purifier.stochastic and not cls.images_made_on_target:
            return f"{attack.name} needs a surface that answers the same each time, and the defense is random"
        return None

    @classmethod
    @abstractmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        """The ways of changing the images; each image is judged at its worst one."""
