"""The attacker who knows nothing and may ask the pipeline."""

from __future__ import annotations

from benchmark.refs import AttackRef
from benchmark.tasks import Candidate, Purifier
from benchmark.threats.contract import Setting, Threat


class Query(Threat):
    """Ask the deployed pipeline for scores or labels, one draw at a time."""

    name = "query"
    meaning = "knows nothing, and asks the deployed pipeline for its scores or its labels"
    title = "error under queries"
    probes = ()
    gives_gradients = False
    images_made_on_target = False

    @classmethod
    def refuses(cls, attack: AttackRef, purifier: Purifier) -> str | None:
        if attack.uses not in ("scores", "labels"):
            return f"{attack.name} takes {attack.uses}, and this attacker gets scores or labels alone"
        return super().refuses(attack, purifier)

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        asked = setting.craft("pipeline-query")
        return (setting.candidate("clean", None), setting.candidate("asked", asked))
