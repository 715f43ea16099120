"""The gray-box threat: the attacker knows how the defense is made but does not have its weights."""

from __future__ import annotations

from benchmark.plan.tasks import Candidate, surface_forms
from benchmark.plan.threats.base import LoopConfig, Setting, Threat, crafts_through_pipeline
from benchmark.plan.threats.black_box import BlackBox
from benchmark.plan.threats.transfer import Transfer
from benchmark.plugins.plugin import param


class GrayBoxConfig(LoopConfig):
    """`copies`: how many copies of the defense the attacker trains, each with its own seed."""

    copies: int = param(2, ge=1, le=100)


class GrayBox(Threat):
    """The attacker knows the target and how the defense is made and trained, but does not have its weights.

    The attacker trains copies of the defense, attacks each copy in front of the target, and shows the
    images to the deployed pipeline.
    """

    name = "gray-box"
    meaning = "knows the target and how the defense is made, and attacks copies trained from other seeds"
    title = "gray-box error"
    nested = (BlackBox.name, Transfer.name)
    config_type = GrayBoxConfig
    probes = (surface_forms.TARGET, surface_forms.PIPELINE)
    images_made_on_target = False

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        target_only = setting.craft(surface_forms.TARGET)
        candidates = [setting.candidate("clean", None), setting.candidate("target-only", target_only)]
        copies = setting.config.copies if isinstance(setting.config, GrayBoxConfig) else 1
        for number in range(1, copies + 1):
            crafts = crafts_through_pipeline(setting, setting.purifier.copy(number))
            candidates += [setting.candidate(f"copy-{number}-{route}", crafts[route]) for route in crafts]
        return tuple(candidates)
