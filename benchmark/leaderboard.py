"""The leaderboard: defenses ranked by the worst case per image within one ball, never by a mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.evidence import Evidence, Numbers, ball, contest, defense, grouped
from benchmark.flags import FLAGS, is_doubt, is_unchecked
from benchmark.records import Row
from benchmark.refs import AttackRef
from benchmark.stats import bootstrap_over_seeds, holm, mcnemar_less, wilson
from benchmark.threats import THREATS
from benchmark.threats.black_box import BlackBox
from benchmark.threats.white_box import WhiteBox
from benchmark.worst_case import worst_cases, worst_of

# fmt: off
COLUMNS = (
    "dataset", "target", "target_config", "threat", "threat_config", "judge", "norm", "eps", "rank",
    "defense", "defense_config", "control", "n", "seeds", "clean_error", "error", "error_low",
    "error_high", "gap", "bound", "attacks", "flags", "psnr", "ssim", "purify_ms", "eligible",
)
# fmt: on
"""The columns of `leaderboard.csv`, in order."""

_OUTDONE = 0.02
_Seeds = tuple[Any, Any, Any]


@dataclass(frozen=True, eq=False)
class _Standing:
    """A defense in one ball: what was run at its ε, all attacks, and each seed's worst cases."""

    own: Sequence[Evidence]
    attacks: Sequence[str]
    cases: Mapping[_Seeds, Sequence[Numbers]]
    incomplete: bool

    @property
    def control(self) -> bool:
        return self.own[0].cell.purifier.control

    @property
    def covered(self) -> int:
        return min((len(cases[0]) for cases in self.cases.values()), default=0)

    def errors(self, n: int) -> dict[_Seeds, Numbers]:
        """Which of the first n images fall, for each combination of seeds."""
        return {seeds: worst_of(cases, n) for seeds, cases in self.cases.items()}

    def error(self, n: int) -> float:
        """The error on the first n images, the mean over all seeds."""
        return float(np.mean(list(self.errors(n).values())))


def leaderboard(everything: Sequence[Evidence]) -> list[Row]:
    """One row for each defense in each ball that the grid attacked, ranked within the ball.

    Skipped cells do not count; failed ones make rows incomplete.
    """
    found: list[tuple[Row, _Standing]] = []
    for group in grouped(everything, contest):
        for same_ball in grouped([e for e in group if e.cell.attack.eps is not None], ball):
            found += _ball_rows(everything, same_ball)
    _add_gaps(found)
    return [row for row, _ in found]


def _add_gaps(found: Sequence[tuple[Row, _Standing]]) -> None:
    """What the defense loses when the attacker knows it, in rows of the same ball and on the same images."""
    unaware = {_without_attacker(row): standing for row, standing in found if row["threat"] == BlackBox.name}
    for row, standing in found:
        before = unaware.get(_without_attacker(row))
        if row["threat"] == WhiteBox.name and before is not None and before.cases and standing.cases:
            n = min(row["n"], before.covered)
            row["gap"] = standing.error(n) - before.error(n)


def _without_attacker(row: Row) -> tuple[Any, ...]:
    names = ("dataset", "target", "target_config", "judge", "defense", "defense_config", "norm", "eps")
    return tuple(row[name] for name in names)


def _ball_rows(everything: Sequence[Evidence], own: list[Evidence]) -> list[tuple[Row, _Standing]]:
    standings = [_standing(everything, of_one) for of_one in grouped(own, defense)]
    controls = [standing for standing in standings if standing.control]
    rows = [_row(standing, standing.covered, controls) for standing in standings]
    # What is ranked is compared on the images that all of it has; a row in doubt takes none from the others.
    shared = min((row["n"] for row in rows if row["bound"] == "found"), default=0)
    rows = [
        _row(standing, shared, controls) if row["bound"] == "found" and row["n"] != shared else row
        for standing, row in zip(standings, rows, strict=True)
    ]
    return _ranked(list(zip(rows, standings, strict=True)))


def _standing(everything: Sequence[Evidence], own: list[Evidence]) -> _Standing:
    """Gather all evidence that counts for one defense in one ball."""
    first = own[0]
    threat, norm, eps = first.cell.threat.name, first.cell.attack.norm, first.cell.attack.eps
    assert norm is not None  # a ball has one
    assert eps is not None
    threats = (threat, *THREATS[threat].nested)
    about = [
        e
        for e in everything
        if e.cell.threat.name in threats
        # the verdict of many draws and that of one are not to be mixed
        and (e.row["judge"] == first.row["judge"] or not first.cell.purifier.stochastic)
        and defense(e) == defense(first)
        and contest(e)[:3] == contest(first)[:3]
    ]
    cases, attacks = {}, []
    # what looks for the nearest image would have been counted in every ball
    same = [e for e in about if contest(e) == contest(first)]
    anywhere = [e for e in same if e.cell.attack.eps is None and e.cell.attack.norm is not None]
    incomplete = any(not e.ok for e in (*own, *anywhere))
    for seeds in _seed_combinations(own, about):
        here = [e for e in own if e.ok and _fits(e, seeds)]
        incomplete = incomplete or not any(_is_required(e) for e in here)
        if here:
            reaching = [e for e in about if e.ok and _fits(e, seeds) and e.inside(norm, eps).any()]
            counted = list(dict.fromkeys((*here, *reaching)))
            attacks += [e.cell.attack_label for e in counted]
            # only images that have met every attack: a strong one on few images is not thinned by the rest
            # in the order of the grid, so that ties fall in every row as they do in this one
            cases[seeds] = worst_cases([e for e in about if e in counted], norm, eps)
    return _Standing(own, list(dict.fromkeys(attacks)), cases, incomplete)


def _seed_combinations(own: Sequence[Evidence], about: Sequence[Evidence]) -> list[_Seeds]:
    """Per training, the seeds of the attacks at this ε; of all its attacks where these draw nothing."""

    def drawn(evidence: Sequence[Evidence], training: tuple[Any, Any]) -> set[Any]:
        rows = [e.row for e in evidence if (e.row["target_seed"], e.row["defense_seed"]) == training]
        return {row["attack_seed"] for row in rows} - {None}

    trainings = {(e.row["target_seed"], e.row["defense_seed"]) for e in own}
    return sorted(
        ((*t, seed) for t in trainings for seed in drawn(own, t) or drawn(about, t) or {None}), key=str
    )


def _fits(evidence: Evidence, seeds: _Seeds) -> bool:
    row = evidence.row
    own = (row["target_seed"], row["defense_seed"], row["attack_seed"])
    return own[:2] == seeds[:2] and own[2] in (None, seeds[2])


def _row(standing: _Standing, n: int, controls: Sequence[_Standing]) -> Row:
    first = standing.own[0]
    row: Row = dict.fromkeys(COLUMNS) | {name: first.row[name] for name in COLUMNS if name in first.row}
    row |= {
        "control": standing.control,
        "n": n,
        "seeds": len(standing.cases),
        "flags": "incomplete",
        "bound": "≥",
    }
    row |= dict.fromkeys(("clean_error", "psnr", "ssim", "purify_ms", "error", "error_low", "error_high"))
    row["attacks"] = " ".join(standing.attacks)
    if not standing.cases:
        return row
    errors = np.stack(list(standing.errors(n).values()))
    low, high = wilson(round(float(errors.sum())), n) if len(errors) == 1 else bootstrap_over_seeds(errors)
    ok = [e for e in standing.own if e.ok]
    row |= {"error": float(errors.mean()), "error_low": low, "error_high": high}
    row["clean_error"] = float(np.mean([e.clean_wrong[:n].mean() for e in ok]))
    row |= {name: float(np.mean([e.fidelity[name][:n].mean() for e in ok])) for name in ("psnr", "ssim")}
    row["purify_ms"] = float(np.mean([e.row["purify_ms"] for e in ok]))
    flags = _row_flags(standing, bool((errors < 1).any()), controls, n)
    row["flags"] = " ".join(flags)
    row["bound"] = "≥" if any(withholds(flag) for flag in flags) else "found"
    return row


def _row_flags(standing: _Standing, survivors: bool, controls: Sequence[_Standing], n: int) -> list[str]:
    flags = ["incomplete"] if standing.incomplete else []
    raised = dict.fromkeys(flag for e in standing.own for flag in (e.row["flags"] or "").split())
    # a row that claims nothing has nothing to withhold, but a target that only guesses makes it void
    flags += [flag for flag in raised if survivors or (flag in FLAGS and FLAGS[flag].of_target)]
    if survivors and _outdone(standing.own):
        flags.append("weak-gradient-attack")
    if not standing.control and not standing.incomplete:
        comparisons = [_compared(standing, control, n) for control in controls]
        p_values = [p for p in comparisons if p is not None]
        if not controls or len(p_values) < len(controls):
            flags.append("unchecked:below-control")
        elif not all(holm(p_values)):
            flags.append("below-control")
    return flags


def _is_required(evidence: Evidence) -> bool:
    """Whether a row with this attack met a strong one, of those that the threat allows."""
    attack, threat = evidence.cell.attack, THREATS[evidence.cell.threat.name]
    return attack.mandatory and (attack.uses == "gradients" or not threat.gives_gradients)


def _outdone(own: Sequence[Evidence]) -> bool:
    """Whether, with the defense in the loop, no gradient attack on each image found what others did.

    Those are generators that were trained for it, and attacks that look at scores or labels alone.
    """
    there = [e for e in own if e.ok and not THREATS[e.cell.threat.name].images_made_on_target]
    n = min((len(e.wrong) for e in there), default=0)
    gradient = [e.wrong[:n].mean() for e in there if _is_required(e) and e.cell.attack.uses == "gradients"]
    others = [e.wrong[:n].mean() for e in there if _goes_without(e.cell.attack)]
    return bool(gradient and others and max(others) > max(gradient) + _OUTDONE)


def _goes_without(attack: AttackRef) -> bool:
    """Whether it stays in its ball and is no optimisation along the gradient of each image."""
    return attack.eps is not None and (attack.trainable or attack.uses not in ("gradients", "nothing"))


def withholds(flag: str) -> bool:
    """Whether a flag of a row takes its rank away: a doubt does, a check that did not run does not."""
    return not is_unchecked(flag) and is_doubt(flag)


def _compared(standing: _Standing, control: _Standing, n: int) -> float | None:
    """The largest p-value over the seeds for erring less than a control; None: not comparable.

    Of a random control what all evidence together chooses: the worst of several choices is what luck adds.
    """
    if control.incomplete or control.covered < n:
        return None
    return max(
        (
            mcnemar_less(ours > 0.5, together[:n] > 0.5)
            for seeds, ours in standing.errors(n).items()
            for other, (together, *_) in control.cases.items()
            if seeds[0] == other[0] and seeds[2] == other[2]
        ),
        default=None,
    )


def _ranked(rows: list[tuple[Row, _Standing]]) -> list[tuple[Row, _Standing]]:
    """Ranks by error; rows in doubt have none, ties share one."""
    ranked = sorted((pair for pair in rows if pair[0]["bound"] == "found"), key=lambda pair: pair[0]["error"])
    for place, (row, _) in enumerate(ranked):
        before = ranked[place - 1][0] if place else {"error": None}
        row["rank"] = before["rank"] if row["error"] == before["error"] else place + 1
    return ranked + [pair for pair in rows if pair[0]["bound"] != "found"]
