"""The white-box threat: the attacker knows everything and attacks through the defense."""

from __future__ import annotations

from benchmark.plan.specs import AttackSpec
from benchmark.plan.tasks import Candidate, Craft, PurifierSpec, surface_forms
from benchmark.plan.threats.base import PurifiedSetConfig, Setting, Threat, crafts_through_pipeline
from benchmark.plan.threats.black_box import BlackBox
from benchmark.plan.threats.gray_box import GrayBox
from benchmark.plan.threats.query import Query
from benchmark.plan.threats.transfer import Transfer


class WhiteBox(Threat):
    """The attacker knows everything: target, defense, and all weights.

    The pipeline is attacked through several surfaces:
    - the exact gradient;
    - BPDA: the backward pass replaces the purifier by the identity, or by a trained network;
    - a start from the target-only image, for attacks that accept a start, and that image itself;
    - distances to purified training images;
    - the clean image;
    - the surrogates that the plugin offers. They can only add errors.

    Each image counts at its worst candidate. A purifier that is the identity has no gradient to replace. The
    network and the purified training images are left out, and BPDA with the identity if its images are those
    of the exact gradient.
    """

    name = "white-box"
    meaning = "knows the target and the defense, and attacks the two together; a lower bound on the error"
    title = "white-box error (lower bound)"
    nested = (BlackBox.name, Transfer.name, Query.name, GrayBox.name)
    config_type = PurifiedSetConfig
    probes = (surface_forms.TARGET, surface_forms.PIPELINE)
    expects_start_from_target_only = True
    knows_all = True
    images_made_on_target = False

    @classmethod
    def refuses(cls, attack: AttackSpec, purifier: PurifierSpec) -> str | None:
        if attack.needs_latents:
            if any(stage.defense.latents for stage in purifier.parts):
                return None
            return f"{attack.name} needs a latent space, and {purifier.name} offers none"
        return super().refuses(attack, purifier)

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        attack, defenses = setting.attack, [stage.defense for stage in setting.purifier.parts]
        routes: list[tuple[str, Craft | None]] = [("clean", None)]
        surrogates: list[str] = []
        if attack.needs_latents:
            surrogates = [defense.latents for defense in defenses if defense.latents]
        else:
            target_only = setting.craft(surface_forms.TARGET)
            routes.append(("target-only", target_only))
            routes += crafts_through_pipeline(setting, setting.purifier).items()
            if attack.takes_start:
                routes.append(("from-target-only", setting.craft(surface_forms.PIPELINE, start=target_only)))
            if attack.uses == "gradients" and not attack.trainable:
                if not setting.purifier.is_identity:
                    routes.append(("bank", setting.craft(surface_forms.PURIFIED_SET)))
                surrogates = [name for defense in defenses for name in defense.surrogates]
        routes += [(name, setting.craft(surface_forms.surrogate_form(name))) for name in surrogates]
        return tuple(setting.candidate(*route) for route in routes)

    @classmethod
    def baseline(cls, setting: Setting) -> tuple[Craft, ...]:
        return () if setting.attack.needs_latents else super().baseline(setting)
