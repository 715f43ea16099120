"""The black-box threat: the attacker does not know that there is a defense."""

from __future__ import annotations

from benchmark.plan.tasks import Candidate, surface_forms
from benchmark.plan.threats.base import Setting, Threat


class BlackBox(Threat):
    """The attacker knows the target but not that there is a defense, and attacks the bare target.

    All defenses are scored on the same images.
    """

    name = "black-box"
    meaning = "knows the target, not that there is a defense (also called unaware or zero-knowledge)"
    title = "black-box error"
    takes_benign = True
    images_made_on_target = True

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        return (setting.candidate("target-only", setting.craft(surface_forms.TARGET)),)
