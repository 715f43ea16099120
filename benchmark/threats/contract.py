"""What a threat decides, as data: the ways in which its attacker may change an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from benchmark.plugin import Config, param
from benchmark.refs import AttackRef, TargetRef
from benchmark.tasks import (
    Bank,
    Candidate,
    Craft,
    Effort,
    Mimic,
    Once,
    Purifier,
    Purify,
    Shard,
    SurfaceSpec,
    TrainTarget,
)


class ThreatConfig(Config):
    """`judge`: how a random pipeline is judged on each image's one worst candidate, always on fresh draws.

    `one`: a single draw; `mean-K`: the share of K draws that are wrong; `worst-K`: any of K; `majority-K`:
    the class that most of K draws give. The clean images are judged in the same way.
    """

    judge: str = param("one", pattern=r"^(one|(mean|worst|majority)-[1-9][0-9]{0,2})$")

    @property
    def draws(self) -> int:
        """How many draws a random pipeline is judged on."""
        return int(self.judge.rpartition("-")[2]) if "-" in self.judge else 1


class LoopConfig(ThreatConfig):
    """Of threats with the defense in the loop.

    `preset`: how much effort goes into each attack. `fast` runs it as configured. `strong` doubles steps,
    restarts and draws together, with each loss that the attack can follow, until that moves the error on 64
    images by no more than a point or an image; where it does not come to that, `not-converged` is raised.

    `eot`: draws of a random defense averaged at each step of an attack (Athalye et al. 2018).
    """

    preset: Literal["fast", "strong"] = param("fast")
    eot: int = param(10, ge=1)


@dataclass(frozen=True, eq=False)
class Setting:
    """One cell on one shard, as a threat sees it.

    `first` are the images on which efforts are found; `substitutes` are classifiers that suit the data.
    `craft_on` is the target that the bare-target images are made on, where that is not the cell's own.
    """

    target: TrainTarget
    purifier: Purifier
    attack: AttackRef
    attack_seed: int | None
    shard: Shard
    first: Shard
    config: ThreatConfig
    substitutes: tuple[TargetRef, ...] = ()
    craft_on: TrainTarget | None = None
    once: Once = field(default_factory=Once, repr=False)

    def surface(self, form: str, purifier: Purifier | None = None) -> SurfaceSpec:
        """The surface of that form, as attacks run it; "target" leaves the defense out.

        Args:
            form: How it is built.
            purifier: What stands in the place of the cell's own.
        """
        if form == "target":
            return self.once(SurfaceSpec, form, self.craft_on or self.target)
        purifier = purifier or self.purifier
        if form != "pipeline-query":  # what is deployed answers as it is
            purifier = purifier.in_attack
        bank = mimic = None
        if isinstance(self.config, BankConfig):
            source = (self.shard.dataset, purifier, self.config.bank)
            bank = self.once(Bank, *source) if form == "purified-set" else None
            mimic = self.once(Mimic, *source) if form == "pipeline-bpda-network" else None
        eot = self.config.eot if isinstance(self.config, LoopConfig) else 1
        # asking is one draw at a time, and a bank is made beforehand
        draws = eot if purifier.stochastic and form not in ("purified-set", "pipeline-query") else None
        return self.once(SurfaceSpec, form, self.target, purifier, draws, bank, mimic)

    def craft(self, form: str, start: Craft | None = None) -> Craft:
        """The attack on the surface of that form."""
        return self.run_on(self.surface(form), start)

    def run_on(self, surface: SurfaceSpec, start: Craft | None = None, effort: Effort | None = None) -> Craft:
        """The attack on a surface, as hard as an effort found to be worth it."""
        parts = (self.attack, surface, self.shard, self.attack_seed, start, effort)
        return self.once(Craft, *parts)

    def effort(self, *surfaces: SurfaceSpec) -> Effort | None:
        """What it takes on these surfaces together, where the preset is to find that out.

        They have to be of the pipeline itself: what fools a stand-in need not fool the pipeline, and there
        nothing tells when it is enough.
        """
        strong = isinstance(self.config, LoopConfig) and self.config.preset == "strong"
        if not strong or not self.attack.grows:
            return None
        return self.once(Effort, self.attack, surfaces, self.first, self.attack_seed)

    def candidate(self, route: str, craft: Craft | None) -> Candidate:
        return Candidate(route, craft, self.purify(craft))

    def purify(self, images: Craft | None, draw: str = "select") -> Purify:
        """The purification of what was crafted, or of the clean images."""
        return self.once(Purify, self.purifier, self.shard, images, draw)


class BankConfig(LoopConfig):
    """`bank`: how many training images are purified for the bank surface, of all classes together.

    As many, with noise on them, show the mimic what the purifier does.
    """

    bank: int = param(500, ge=1)


class Threat(ABC):
    """What the attacker knows: a name, a sentence for the tables, and the candidates.

    `title` heads the column of errors; `nested` names the weaker threats whose images count here too.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the threat judges the same cell otherwise: its results get new keys."""
    meaning: ClassVar[str]
    title: ClassVar[str]
    nested: ClassVar[tuple[str, ...]] = ()
    config_type: ClassVar[type[ThreatConfig]] = ThreatConfig
    probes: ClassVar[tuple[str, ...]] = ("target",)
    """Forms of the surfaces whose gradients are examined for each shard, the last being what is attacked."""
    starts_from_target_only: ClassVar[bool] = False
    """Whether attacks that can begin elsewhere also begin at the target-only image."""
    takes_benign: ClassVar[bool] = False
    """Whether changes that take nothing from a surface are shown here, once for all threats."""
    gives_gradients: ClassVar[bool] = True
    """Whether attacks may follow gradients, so that a row without such an attack is incomplete."""
    knows_all: ClassVar[bool] = False
    """Whether no other attacker can know more, so that what it cannot break has to stand costly checks."""
    images_made_on_target: ClassVar[bool]
    """Whether the defense has no part in the images, so that `recovered` (right again) means anything."""

    @classmethod
    def refuses(cls, attack: AttackRef, purifier: Purifier) -> str | None:
        """Why this attack on this purifier has no place under this threat, or None."""
        if attack.uses == "nothing" and not cls.takes_benign:
            return f"{attack.name} takes nothing from the surface: its black-box row says it all"
        if attack.needs_latents:
            return f"{attack.name} needs a surface with a latent space, and this attacker has none"
        if attack.needs_determinism and purifier.stochastic and not cls.images_made_on_target:
            return f"{attack.name} needs a surface that answers the same each time, and the defense is random"
        return None

    @classmethod
    def refuses_target(cls, target: TrainTarget, substitutes: tuple[TargetRef, ...]) -> str | None:
        """Why this target cannot be attacked under this threat, or None.

        Args:
            target: The target.
            substitutes: Other classifiers that suit the images.
        """
        return None

    @classmethod
    def refuses_images_of(cls, base: str | None) -> str | None:
        """Why images made on another target, of that name, have no place under this threat, or None."""
        if base is None or cls.images_made_on_target:
            return None
        return f"craft_on {base}: {cls.name} makes its images on the cell's own pipeline"

    @classmethod
    @abstractmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        """The ways of changing the images; each image is judged at its worst one."""

    @classmethod
    def baseline(cls, setting: Setting) -> tuple[Craft, ...]:
        """The attacks on the undefended target that the cell is compared with; each image at its worst."""
        return (setting.craft("target"),)


def in_the_loop(setting: Setting, purifier: Purifier) -> list[tuple[str, Craft]]:
    """The routes through a pipeline that need nothing of its plugin: its gradients.

    The exact one, and the backward pass differentiable approximation (BPDA, Athalye et al. 2018) with the
    identity and, where the attacker can teach one and an attack is not trained against each surface anew,
    with a mimic; without gradients all pipelines are the same.
    """
    forms = {"exact": "pipeline"}
    if setting.attack.uses == "gradients":
        forms["bpda-identity"] = "pipeline-bpda-identity"
        if isinstance(setting.config, BankConfig) and not setting.attack.trainable:
            forms["bpda-mimic"] = "pipeline-bpda-network"
    surfaces = {route: setting.surface(form, purifier) for route, form in forms.items()}
    effort = setting.effort(*surfaces.values())
    return [(route, setting.run_on(surface, effort=effort)) for route, surface in surfaces.items()]
