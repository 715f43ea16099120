"""Which images fall at the worst of all attacks in a ball, taken image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmark.evidence import Evidence, Numbers
from benchmark.threats import THREATS


def worst_cases(evidence: Sequence[Evidence], norm: str, eps: float) -> list[Numbers]:
    """Candidates for the worst case of what lies in a ball as measured; the clean image always does.

    A deterministic pipeline falls to an image if anything broke it: there is one candidate. Of a random
    one, each image's one worst attack is judged on its own fresh draw: the luckiest of several draws is
    not an error. Those attacks are chosen among all the evidence (first), and again as who knows less or
    has one attack alone would, so that no luck of the draws makes an attacker who knows more look weaker.

    Args:
        evidence: Cells of one defense and one combination of seeds.
        norm: The norm of the ball.
        eps: Its radius.

    Returns:
        For each candidate how wrong each image is, over the images that all the cells have.
    """
    covered = min(len(e.wrong) for e in evidence)
    alone = [np.where(e.inside(norm, eps), e.wrong, e.clean_wrong)[:covered] for e in evidence]
    clean = [e.clean_wrong[:covered] for e in evidence]
    if not any(e.cell.purifier.stochastic for e in evidence):
        return [np.stack([*alone, *clean]).max(axis=0)]
    together = [_chosen(members, covered, norm, eps) for members in (evidence, *_knowing_less(evidence))]
    return [*together, *alone, *clean]


def worst_of(cases: Sequence[Numbers], n: int) -> Numbers:
    """The candidate under which most of the first n images fall."""
    return max((case[:n] for case in cases), key=lambda case: float(case.mean()))


def _knowing_less(evidence: Sequence[Evidence]) -> Iterator[Sequence[Evidence]]:
    """What each threat among the evidence counts."""
    for threat in dict.fromkeys(e.cell.threat.name for e in evidence):
        yield [e for e in evidence if e.cell.threat.name in (threat, *THREATS[threat].nested)]


def _chosen(evidence: Sequence[Evidence], covered: int, norm: str, eps: float) -> Numbers:
    """How wrong each image is by the one attack that was worst on the draws of selection."""
    worst, broken = np.full(covered, -np.inf, dtype=np.float32), np.zeros(covered)
    for member in evidence:
        crafted = np.where(member.inside(norm, eps), member.margin, -np.inf)
        for margins, wrong in ((member.clean_margin, member.clean_wrong), (crafted, member.wrong)):
            better = margins[:covered] > worst
            worst[better], broken[better] = margins[:covered][better], wrong[:covered][better]
    return broken
