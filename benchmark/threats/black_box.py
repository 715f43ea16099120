"""The attacker who does not know that there is a defense."""

from __future__ import annotations

from benchmark.tasks import Candidate
from benchmark.threats.contract import Setting, Threat


class BlackBox(Threat):
    """Attack the bare target; every defense is scored on the same images."""

    name = "black-box"
    meaning = "knows the target, not that there is a defense (also called unaware or zero-knowledge)"
    title = "black-box error"
    takes_benign = True
    images_made_on_target = True

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        return (setting.candidate("target-only", setting.craft("target")),)
