"""The attacker who knows everything, with the defense in the loop."""

from __future__ import annotations

from typing import Literal

from benchmark.plugin import param
from benchmark.refs import AttackRef
from benchmark.tasks import Candidate, Purifier
from benchmark.threats.black_box import BlackBox
from benchmark.threats.contract import Setting, Threat, ThreatConfig


class WhiteBoxConfig(ThreatConfig):
    """`preset`: how much effort goes into each attack; `fast` runs it as configured.

    `eot`: draws of a random defense averaged at each step of an attack (Athalye et al. 2018).
    """

    preset: Literal["fast"] = param("fast")
    eot: int = param(10, ge=1)


class WhiteBox(Threat):
    """Attack the pipeline along several gradients, always, whatever the defense declares.

    The exact gradient; the backward pass differentiable approximation (BPDA, Athalye et al. 2018) with
    the identity; a start from the target-only image, for attacks that can begin anywhere; that image
    itself; and the clean image. Each image counts at the worst of them.
    """

    name = "white-box"
    meaning = "knows the target and the defense, and attacks the two together; a lower bound on the error"
    title = "white-box error (lower bound)"
    nested = (BlackBox.name,)
    config_type = WhiteBoxConfig
    probes = ("target", "pipeline")
    starts_from_target_only = True
    images_made_on_target = False

    @classmethod
    def refuses(cls, attack: AttackRef, purifier: Purifier) -> str | None:
        if attack.uses == "nothing":
            return f"{attack.name} takes nothing from the surface: its black-box row says it all"
        return super().refuses(attack, purifier)

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        target_only = setting.craft("target")
        routes = [
            setting.candidate("clean", None),
            setting.candidate("target-only", target_only),
            setting.candidate("exact", setting.craft("pipeline")),
        ]
        if setting.attack.uses == "gradients":  # without them both pipelines are the same
            routes.append(setting.candidate("bpda-identity", setting.craft("pipeline-bpda-identity")))
        if setting.attack.takes_start:
            routes.append(setting.candidate("from-target-only", setting.craft("pipeline", start=target_only)))
        return tuple(routes)
