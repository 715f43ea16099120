"""Doubts that no cell shows by itself: an attack that is outdone by what should be weaker.

Each is a paired exact test on the same images at p < 0.01, not a difference in points, which misfires.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from benchmark.evidence import Evidence, Mask, ball, contest, defense, grouped
from benchmark.refs import AttackRef
from benchmark.stats import mcnemar_less
from benchmark.threats import THREATS

_LEVEL = 0.01


def add_flags(everything: Iterable[Evidence]) -> None:
    """Raise the flags that follow from comparing cells, in their rows."""
    ok = [evidence for evidence in everything if evidence.ok]
    for group in grouped(ok, lambda e: (*contest(e)[:3], defense(e), *_seeds(e))):
        for threat in THREATS:
            cells = [e for e in group if e.cell.threat.name == threat]
            for attacker in grouped(cells, contest):
                _within(attacker)
        for same_ball in grouped([e for e in group if e.cell.attack.eps is not None], ball):
            _across(same_ball)


def _seeds(evidence: Evidence) -> tuple[object, object]:
    """Of the trainings: an attack's own seed makes no other pipeline."""
    return evidence.row["target_seed"], evidence.row["defense_seed"]


def _within(cells: Sequence[Evidence]) -> None:
    """Compare what one attacker did to one pipeline."""
    bounded = [e for e in cells if e.cell.attack.eps is not None]
    for same_ball in grouped(bounded, lambda e: (*ball(e), e.cell.craft_on and e.cell.craft_on.key)):
        iterated = [e for e in same_ball if _contains_one_step(e.cell.attack)]
        for flag, weak in (
            ("single-beats-multi", [e for e in same_ball if e.cell.attack.single_step]),
            ("noise-beats-attack", [e for e in same_ball if e.cell.attack.uses == "nothing"]),
        ):
            for strong in iterated:
                if any(_weaker(strong.fell, other.fell) for other in weak):
                    _raise(strong, flag)
    for sweep in grouped([e for e in cells if e.cell.attack.grows], _but_for_the_radius):
        by_radius = sorted(sweep, key=lambda e: e.cell.attack.eps or 0)
        for smaller, larger in pairwise(by_radius):
            if _weaker(larger.fell, smaller.fell):
                _raise(larger, "not-monotone")


def _contains_one_step(attack: AttackRef) -> bool:
    """Whether to break fewer images than one step does would be a fault of the attack."""
    return attack.grows and attack.uses == "gradients" and not (attack.targeted or attack.needs_latents)


def _across(cells: Sequence[Evidence]) -> None:
    """Compare attackers with and without the defense in the loop, each at its best attack."""
    # of a random pipeline, the routes of one draw and the verdict of many are no pair
    one_draw = [e for e in cells if e.row["judge"] == "one" or not e.cell.purifier.stochastic]
    gradient = [e for e in one_draw if e.cell.attack.uses == "gradients" and e.cell.craft_on is None]
    unaware = [e for e in gradient if THREATS[e.cell.threat.name].images_made_on_target]
    aware = [e for e in gradient if THREATS[e.cell.threat.name].knows_all]
    for attacker in grouped(aware, contest):
        if not unaware:
            continue
        n = min(len(e.wrong) for e in (*attacker, *unaware))
        best = max((e.loop_wrong[:n] for e in attacker), key=np.mean)
        if _weaker(best, max((e.fell[:n] for e in unaware), key=np.mean)):
            for evidence in attacker:
                _raise(evidence, "black-beats-white")


def _weaker(ours: Mask, theirs: Mask) -> bool:
    """Whether we broke fewer of the images that both met, beyond chance."""
    n = min(len(ours), len(theirs))
    return mcnemar_less(ours[:n], theirs[:n]) < _LEVEL


def _but_for_the_radius(evidence: Evidence) -> tuple[object, ...]:
    cell = evidence.cell
    return (
        cell.attack.name,
        cell.attack_config,
        cell.attack.backend,
        cell.attack.norm,
        cell.attack_seed,
    )


def _raise(evidence: Evidence, flag: str) -> None:
    """Only a row that claims something can be in doubt."""
    flags = (evidence.row["flags"] or "").split()
    if flag not in flags and not evidence.fell.all():
        evidence.row["flags"] = " ".join([*flags, flag])
