"""Flags that need several cells: an attack found less than one that should be weaker.

Each comparison is a paired exact test on the same images at p < 0.01. A plain difference in points would
raise false alarms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from benchmark.metrics.statistics import mcnemar_less
from benchmark.plan.specs import AttackSpec
from benchmark.plan.threats import THREATS
from benchmark.results.cell_outcomes import BoolArray, CellOutcomes, ball, comparison_group, defense, group_by

_LEVEL = 0.01


def add_flags(outcomes: Iterable[CellOutcomes]) -> None:
    """Add the flags that follow from comparing cells to their records."""
    ok = [o for o in outcomes if o.ok]
    for pipeline in group_by(ok, _pipeline).values():
        for threat in THREATS:
            cells = [o for o in pipeline if o.cell.threat.name == threat]
            for attacker in group_by(cells, comparison_group).values():
                _compare_attacks(attacker)
        bounded = [o for o in pipeline if o.cell.attack.eps is not None]
        for same_ball in group_by(bounded, ball).values():
            _compare_attackers(same_ball)


def _pipeline(outcomes: CellOutcomes) -> tuple[object, ...]:
    """Data, target and defense with the seeds of their trainings; the attack's own seed does not count."""
    seeds = (outcomes.record["target_seed"], outcomes.record["defense_seed"])
    return (*comparison_group(outcomes)[:3], defense(outcomes), *seeds)


def _compare_attacks(cells: Sequence[CellOutcomes]) -> None:
    """Compare the attacks of one attacker on one pipeline."""
    bounded = [o for o in cells if o.cell.attack.eps is not None]
    same_balls = group_by(bounded, lambda o: (*ball(o), o.cell.craft_on and o.cell.craft_on.key))
    for same_ball in same_balls.values():
        strong = [o for o in same_ball if _contains_one_step(o.cell.attack)]
        single_step = [o for o in same_ball if o.cell.attack.single_step]
        noise = [o for o in same_ball if o.cell.attack.uses == "nothing"]
        for flag, weak in (("single-beats-multi", single_step), ("noise-beats-attack", noise)):
            for outcomes in strong:
                if any(_weaker(outcomes.misclassified, other.misclassified) for other in weak):
                    _raise(outcomes, flag)
    for sweep in group_by((o for o in cells if o.cell.attack.scalable), _without_eps).values():
        by_radius = sorted(sweep, key=lambda o: o.cell.attack.eps or 0)
        for smaller, larger in pairwise(by_radius):
            if _weaker(larger.misclassified, smaller.misclassified):
                _raise(larger, "not-monotone")


def _contains_one_step(attack: AttackSpec) -> bool:
    """Whether the attack must not find fewer adversarial images than a single gradient step."""
    return attack.scalable and attack.uses == "gradients" and not (attack.targeted or attack.needs_latents)


def _compare_attackers(cells: Sequence[CellOutcomes]) -> None:
    """Compare the best attack with the defense in the loop to the best one without it."""
    # A random pipeline may be judged by many draws. Routes are selected on one draw, so these are no pairs.
    one_draw = [o for o in cells if o.record["judge"] == "one" or not o.cell.purifier.stochastic]
    gradient = [o for o in one_draw if o.cell.attack.uses == "gradients" and o.cell.craft_on is None]
    unaware = [o for o in gradient if THREATS[o.cell.threat.name].images_made_on_target]
    aware = [o for o in gradient if THREATS[o.cell.threat.name].knows_all]
    for attacker in group_by(aware, comparison_group).values():
        if not unaware:
            continue
        n = min(len(o.wrong) for o in (*attacker, *unaware))
        best = max((o.loop_wrong[:n] for o in attacker), key=np.mean)
        if _weaker(best, max((o.misclassified[:n] for o in unaware), key=np.mean)):
            for outcomes in attacker:
                _raise(outcomes, "black-beats-white")


def _weaker(ours: BoolArray, theirs: BoolArray) -> bool:
    """Whether we fooled the pipeline on significantly fewer of the images that both attacked."""
    n = min(len(ours), len(theirs))
    return mcnemar_less(ours[:n], theirs[:n]) < _LEVEL


def _without_eps(outcomes: CellOutcomes) -> tuple[object, ...]:
    """The key that two cells share if they differ only in the radius."""
    cell = outcomes.cell
    return (cell.attack.name, cell.attack_config, cell.attack.backend, cell.attack.norm, cell.attack_seed)


def _raise(outcomes: CellOutcomes, flag: str) -> None:
    """Add a flag, unless every image is misclassified: such a record claims no robustness."""
    flags = (outcomes.record["flags"] or "").split()
    if flag not in flags and not outcomes.misclassified.all():
        outcomes.record["flags"] = " ".join([*flags, flag])
