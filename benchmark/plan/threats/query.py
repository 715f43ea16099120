"""The query threat: the attacker knows nothing and may query the pipeline."""

from __future__ import annotations

from benchmark.plan.specs import AttackSpec
from benchmark.plan.tasks import Candidate, PurifierSpec, surface_forms
from benchmark.plan.threats.base import Setting, Threat


class Query(Threat):
    """The attacker knows neither target nor defense, and queries the deployed pipeline for scores or labels.

    Each query of a random pipeline is a single draw.
    """

    name = "query"
    meaning = "knows nothing, and queries the deployed pipeline for its scores or its labels"
    title = "error under queries"
    probes = ()
    gives_gradients = False
    images_made_on_target = False

    @classmethod
    def refuses(cls, attack: AttackSpec, purifier: PurifierSpec) -> str | None:
        if attack.uses not in ("scores", "labels"):
            return f"{attack.name} takes {attack.uses}, and this attacker gets scores or labels alone"
        return super().refuses(attack, purifier)

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        queried = setting.craft(surface_forms.QUERY)
        return (setting.candidate("clean", None), setting.candidate("asked", queried))
