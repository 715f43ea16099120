"""The base class of threats and their configurations.

A threat turns a `Setting`, one cell on one shard, into candidates: the ways in which its attacker may change
an image, each as tasks that are not run yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from benchmark.plan.specs import AttackSpec, TargetSpec
from benchmark.plan.tasks import (
    Candidate,
    ConvergenceSearch,
    Craft,
    Interner,
    PurifiedSet,
    PurifierSpec,
    Purify,
    Shard,
    SurfaceSpec,
    TrainBpdaNetwork,
    TrainTarget,
    surface_forms,
)
from benchmark.plugins.plugin import Config, param


class ThreatConfig(Config):
    """`judge`: how a random pipeline is judged on the worst candidate of each image, always on new draws.

    `one`: a single draw; `mean-K`: the fraction of K draws that are wrong; `worst-K`: any of K draws is
    wrong; `majority-K`: the class that most of K draws output. Clean images are judged in the same way.
    """

    judge: str = param("one", pattern=r"^(one|(mean|worst|majority)-[1-9][0-9]{0,2})$")

    @property
    def draws(self) -> int:
        """The number of draws that a random pipeline is judged on."""
        return int(self.judge.rpartition("-")[2]) if "-" in self.judge else 1


class LoopConfig(ThreatConfig):
    """For threats that attack through the defense.

    `preset`: how hard each attack tries. `fast` runs it as configured. `strong` doubles steps, restarts and
    draws together, with each loss that the attack supports, until that changes the error on 64 images by at
    most one point or one image; if it never does, the flag `not-converged` is raised.

    `eot`: draws of a random defense averaged at each step of an attack (Athalye et al. 2018).
    """

    preset: Literal["fast", "strong"] = param("fast")
    eot: int = param(10, ge=1)


class PurifiedSetConfig(LoopConfig):
    """`bank`: how many training images, of all classes together, are purified for the purified-set surface.

    The BPDA network is trained on the same number of images, with noise added.
    """

    bank: int = param(500, ge=1)


@dataclass(frozen=True, eq=False)
class Setting:
    """One cell on one shard, as a threat sees it.

    `search_shard` holds the images on which convergence is searched.
    `substitutes` are classifiers for this data set that an attacker can train.
    `craft_on` is the target that bare-target images are made on, if it is not the target of the cell.
    """

    target: TrainTarget
    purifier: PurifierSpec
    attack: AttackSpec
    attack_seed: int | None
    shard: Shard
    search_shard: Shard
    config: ThreatConfig
    substitutes: tuple[TargetSpec, ...] = ()
    craft_on: TrainTarget | None = None
    intern: Interner = field(default_factory=Interner, repr=False)

    def surface(self, form: str, purifier: PurifierSpec | None = None) -> SurfaceSpec:
        """The surface of a form, one of `surface_forms`; `purifier` replaces the purifier of the cell."""
        if form == surface_forms.TARGET:
            return self.intern(SurfaceSpec, form, self.craft_on or self.target)
        purifier = purifier or self.purifier
        if form != surface_forms.QUERY:  # queries reach the deployed purifier, not its cheaper setting
            purifier = purifier.in_attack
        purified_set = bpda_network = None
        if isinstance(self.config, PurifiedSetConfig):
            source = (self.shard.dataset, purifier, self.config.bank)
            if form == surface_forms.PURIFIED_SET:
                purified_set = self.intern(PurifiedSet, *source)
            elif form == surface_forms.BPDA_NETWORK:
                bpda_network = self.intern(TrainBpdaNetwork, *source)
        eot = self.config.eot if isinstance(self.config, LoopConfig) else 1
        # a query is one draw, and a purified set is drawn beforehand
        averaged = form not in (surface_forms.PURIFIED_SET, surface_forms.QUERY)
        draws = eot if purifier.stochastic and averaged else None
        return self.intern(SurfaceSpec, form, self.target, purifier, draws, purified_set, bpda_network)

    def craft(self, form: str, start: Craft | None = None) -> Craft:
        """The attack on the surface of that form."""
        return self.craft_on_surface(self.surface(form), start)

    def craft_on_surface(
        self, surface: SurfaceSpec, start: Craft | None = None, convergence: ConvergenceSearch | None = None
    ) -> Craft:
        """The attack on a surface, with the steps, restarts and draws of a convergence search if given."""
        return self.intern(Craft, self.attack, surface, self.shard, self.attack_seed, start, convergence)

    def convergence(self, *surfaces: SurfaceSpec) -> ConvergenceSearch | None:
        """The convergence search on these surfaces together; None if the preset does not ask for one.

        They must be surfaces of the pipeline itself. Images that fool a surrogate need not fool the pipeline,
        so on a surrogate the search could not tell when to stop.
        """
        strong = isinstance(self.config, LoopConfig) and self.config.preset == "strong"
        if not strong or not self.attack.scalable:
            return None
        return self.intern(ConvergenceSearch, self.attack, surfaces, self.search_shard, self.attack_seed)

    def candidate(self, route: str, craft: Craft | None) -> Candidate:
        return Candidate(route, craft, self.purify(craft))

    def purify(self, images: Craft | None, draw: str = "select") -> Purify:
        """The purification of crafted images, or of the clean images."""
        return self.intern(Purify, self.purifier, self.shard, images, draw)


class Threat(ABC):
    """A threat: what the attacker knows, and which candidates follow from it.

    `meaning` is a sentence for the tables, `title` the head of the column of errors. `nested` names the
    weaker threats; their images count here too.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the threat judges the same cell in another way, so that its results get new keys."""
    meaning: ClassVar[str]
    title: ClassVar[str]
    nested: ClassVar[tuple[str, ...]] = ()
    config_type: ClassVar[type[ThreatConfig]] = ThreatConfig
    probes: ClassVar[tuple[str, ...]] = (surface_forms.TARGET,)
    """Forms of the surfaces whose gradients are probed on each shard."""
    expects_start_from_target_only: ClassVar[bool] = False
    """Whether attacks that accept a start also start from the target-only image."""
    takes_benign: ClassVar[bool] = False
    """Whether changes that use no output of a surface are scored here. One threat does so for all."""
    gives_gradients: ClassVar[bool] = True
    """Whether attacks may use gradients, so that a row without such an attack is incomplete."""
    knows_all: ClassVar[bool] = False
    """Whether no attacker can know more, so that a defense that resists must also pass costly checks."""
    images_made_on_target: ClassVar[bool]
    """Whether images are made without the defense, so that `recovered` (correct again) is meaningful."""

    @classmethod
    def refuses(cls, attack: AttackSpec, purifier: PurifierSpec) -> str | None:
        """Why this attack on this purifier is skipped under this threat, or None."""
        if attack.uses == "nothing" and not cls.takes_benign:
            return f"{attack.name} takes nothing from the surface: its black-box row says it all"
        if attack.needs_latents:
            return f"{attack.name} needs a surface with a latent space, and this attacker has none"
        if attack.needs_determinism and purifier.stochastic and not cls.images_made_on_target:
            return f"{attack.name} needs a surface that answers the same each time, and the defense is random"
        return None

    @classmethod
    def refuses_target(cls, target: TrainTarget, substitutes: tuple[TargetSpec, ...]) -> str | None:
        """Why this target cannot be attacked under this threat, or None; see `Setting.substitutes`."""
        return None

    @classmethod
    def refuses_images_of(cls, base: str | None) -> str | None:
        """Why images made on another target, named `base`, are not allowed under this threat, or None."""
        if base is None or cls.images_made_on_target:
            return None
        return f"craft_on {base}: {cls.name} makes its images on the cell's own pipeline"

    @classmethod
    def attacked_form(cls) -> str:
        """The form, one of `probes`, of the surface that attacks follow."""
        piped = surface_forms.PIPELINE in cls.probes
        return surface_forms.PIPELINE if piped else surface_forms.TARGET

    @classmethod
    @abstractmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        """The ways of changing the images; each image is judged at its worst one."""

    @classmethod
    def baseline(cls, setting: Setting) -> tuple[Craft, ...]:
        """The attacks on the undefended target that the cell is compared with; each image at its worst."""
        return (setting.craft(surface_forms.TARGET),)


def crafts_through_pipeline(setting: Setting, purifier: PurifierSpec) -> dict[str, Craft]:
    """The attack through a pipeline, by route, without any help from the defense plugin.

    The routes are the exact gradient, and backward pass differentiable approximation (BPDA, Athalye et al.
    2018) with the identity and, if the attacker can train one, with a network. An attack that is itself
    trained against each surface is not run through the network. Attacks without gradients have the exact
    route only, because BPDA does not change the forward pass.

    If the purifier is the identity, BPDA with the identity has the exact gradient. It stays for attacks that
    depend on a seed, because it is a further start with another seed. A network can only add an error to the
    exact gradient and is left out.
    """
    forms = {"exact": surface_forms.PIPELINE}
    attack, identity = setting.attack, purifier.is_identity
    if attack.uses == "gradients":
        if attack.seeded or not identity:
            forms["bpda-identity"] = surface_forms.BPDA_IDENTITY
        if isinstance(setting.config, PurifiedSetConfig) and not (attack.trainable or identity):
            forms["bpda-mimic"] = surface_forms.BPDA_NETWORK
    surfaces = {route: setting.surface(form, purifier) for route, form in forms.items()}
    convergence = setting.convergence(*surfaces.values())
    return {name: setting.craft_on_surface(s, convergence=convergence) for name, s in surfaces.items()}
