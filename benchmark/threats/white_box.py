"""The attacker who knows everything, with the defense in the loop."""

from __future__ import annotations

from benchmark.refs import AttackRef
from benchmark.tasks import Candidate, Craft, Purifier
from benchmark.threats.black_box import BlackBox
from benchmark.threats.contract import BankConfig, Setting, Threat, in_the_loop
from benchmark.threats.gray_box import GrayBox
from benchmark.threats.query import Query
from benchmark.threats.transfer import Transfer


class WhiteBox(Threat):
    """Attack the pipeline along several surfaces, always, whatever the defense declares.

    The exact gradient; the identity, or a mimic of the purifier, in its place (BPDA); a start from the
    target-only image, for attacks that can begin anywhere; that image itself; a bank of purified training
    images; the clean image; and the stand-ins that the plugin offers, which only add. Each image counts at
    the worst of them.
    """

    name = "white-box"
    meaning = "knows the target and the defense, and attacks the two together; a lower bound on the error"
    title = "white-box error (lower bound)"
    nested = (BlackBox.name, Transfer.name, Query.name, GrayBox.name)
    config_type = BankConfig
    probes = ("target", "pipeline")
    starts_from_target_only = True
    knows_all = True
    images_made_on_target = False

    @classmethod
    def refuses(cls, attack: AttackRef, purifier: Purifier) -> str | None:
        if attack.needs_latents:
            if any(part.defense.latents for part in purifier.parts):
                return None
            return f"{attack.name} needs a latent space, and {purifier.name} offers none"
        return super().refuses(attack, purifier)

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        routes: list[tuple[str, Craft | None]] = [("clean", None)]
        attack = setting.attack
        if attack.needs_latents:
            routes += [
                (part.defense.latents, setting.craft(f"surrogate:{part.defense.latents}"))
                for part in setting.purifier.parts
                if part.defense.latents
            ]
            return tuple(setting.candidate(*route) for route in routes)
        target_only = setting.craft("target")
        routes += [("target-only", target_only), *in_the_loop(setting, setting.purifier)]
        if attack.takes_start:
            routes.append(("from-target-only", setting.craft("pipeline", start=target_only)))
        if attack.uses == "gradients" and not attack.trainable:
            routes.append(("bank", setting.craft("purified-set")))
            names = [name for part in setting.purifier.parts for name in part.defense.surrogates]
            routes += [(name, setting.craft(f"surrogate:{name}")) for name in names]
        return tuple(setting.candidate(*route) for route in routes)

    @classmethod
    def baseline(cls, setting: Setting) -> tuple[Craft, ...]:
        return () if setting.attack.needs_latents else super().baseline(setting)
