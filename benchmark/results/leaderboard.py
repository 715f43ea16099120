"""The leaderboard of a run: defenses ranked by the worst case per image within one ball, never by a mean."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.files.tables import Row
from benchmark.metrics.statistics import bootstrap_over_seeds, holm, mcnemar_less, wilson
from benchmark.plan.threats import THREATS
from benchmark.plan.threats.black_box import BlackBox
from benchmark.plan.threats.white_box import WhiteBox
from benchmark.results.cell_outcomes import CellOutcomes, ball, comparison_group, defense, group_by
from benchmark.results.columns import LEADERBOARD_COLUMNS
from benchmark.results.flags import FLAGS, is_doubt, is_unchecked
from benchmark.results.worst_case import OutcomeSet, worst_of

_OUTDONE = 0.02
_Seeds = tuple[Any, Any, Any]
"""Seeds of target, defense and attack."""


@dataclass(frozen=True, eq=False)
class _DefenseResult:
    """A defense in one ball.

    Attributes:
        own: Outcomes of the cells with the norm and eps of the ball.
        attacks: Labels of all attacks that count.
        cases: Candidates for the worst case, for each combination of seeds.
        incomplete: Whether a mandatory attack is missing, or an attack failed.
    """

    own: Sequence[CellOutcomes]
    attacks: Sequence[str]
    cases: Mapping[_Seeds, Sequence[NDArray[Any]]]
    incomplete: bool

    @property
    def control(self) -> bool:
        return self.own[0].cell.purifier.control

    @property
    def n(self) -> int:
        """Images that every combination of seeds has."""
        return min((len(cases[0]) for cases in self.cases.values()), default=0)

    def errors(self, n: int) -> dict[_Seeds, NDArray[Any]]:
        """Worst-case error of each of the first n images, for each combination of seeds."""
        return {seeds: worst_of(cases, n) for seeds, cases in self.cases.items()}

    def error(self, n: int) -> float:
        """The error on the first n images, averaged over the seeds."""
        return float(np.mean(list(self.errors(n).values())))


@dataclass(frozen=True, eq=False)
class _RelatedOutcomes:
    """The outcomes that may count for one defense under one attacker, in whatever ball.

    `incomplete`: an attack that minimises the norm failed.
    """

    related: Sequence[CellOutcomes]
    incomplete: bool
    _fitting: dict[_Seeds, OutcomeSet] = field(default_factory=dict)

    @cached_property
    def attack_seeds(self) -> dict[tuple[Any, Any], set[Any]]:
        """The seeds of random attacks, by the seeds of target and defense."""
        return _attack_seeds(self.related)

    def fitting(self, seeds: _Seeds) -> OutcomeSet:
        """Those with one combination of seeds, without failed cells."""
        if seeds not in self._fitting:
            self._fitting[seeds] = OutcomeSet([o for o in self.related if o.ok and _fits(o, seeds)])
        return self._fitting[seeds]


_RankedResult = tuple[Row, _DefenseResult]


def leaderboard(outcomes: Sequence[CellOutcomes]) -> list[Row]:
    """Make one row for each defense in each ball that the grid attacked, ranked within the ball.

    Skipped cells do not count. Failed cells make rows incomplete.
    """
    results: list[_RankedResult] = []
    pipelines = group_by(outcomes, _pipeline)
    for group in group_by(outcomes, comparison_group).values():
        # for one group only, so that its arrays are freed
        related: dict[tuple[Hashable, ...], _RelatedOutcomes] = {}
        for same_ball in group_by([o for o in group if o.cell.attack.eps is not None], ball).values():
            by_defense = group_by(same_ball, defense)
            for name, own in by_defense.items():
                if name not in related:
                    related[name] = _related(pipelines[_pipeline(own[0])], own[0])
            results += _rank_ball([_defense_result(related[name], own) for name, own in by_defense.items()])
    _add_gaps(results)
    return [row for row, _ in results]


def _pipeline(outcomes: CellOutcomes) -> tuple[Hashable, ...]:
    """Data set, target and defense, with any seeds."""
    return (*comparison_group(outcomes)[:3], defense(outcomes))


def _add_gaps(results: Sequence[_RankedResult]) -> None:
    """Add the difference between white-box and black-box errors in the same ball, on the same images."""
    black_box = {_without_attacker(row): result for row, result in results if row["threat"] == BlackBox.name}
    for row, result in results:
        other = black_box.get(_without_attacker(row))
        if row["threat"] == WhiteBox.name and other is not None and other.cases and result.cases:
            n = min(row["n"], other.n)
            row["gap"] = result.error(n) - other.error(n)


def _without_attacker(row: Row) -> tuple[Any, ...]:
    names = ("dataset", "target", "target_config", "judge", "defense", "defense_config", "norm", "eps")
    return tuple(row[name] for name in names)


def _rank_ball(results: Sequence[_DefenseResult]) -> list[_RankedResult]:
    """Rank the defenses that one attacker attacked in one ball."""
    controls = [result for result in results if result.control]
    rows = [_row(result, result.n, controls) for result in results]
    # Ranked rows are compared on the images that all of them have. Rows in doubt do not reduce this number.
    shared = min((row["n"] for row in rows if row["bound"] == "found"), default=0)
    rows = [
        _row(result, shared, controls) if row["bound"] == "found" and row["n"] != shared else row
        for result, row in zip(results, rows, strict=True)
    ]
    return _ranked(list(zip(rows, results, strict=True)))


def _related(pipeline: Sequence[CellOutcomes], first: CellOutcomes) -> _RelatedOutcomes:
    """Gather the outcomes of a pipeline that may count under the attacker of `first`."""
    threat = first.cell.threat.name
    threats = (threat, *THREATS[threat].nested)
    related = [
        o
        for o in pipeline
        if o.cell.threat.name in threats
        # judgements by many draws and by one draw must not be mixed
        and (o.record["judge"] == first.record["judge"] or not first.cell.purifier.stochastic)
    ]
    # A norm-minimising attack counts in every ball, so its failure makes every row incomplete.
    same_attacker = [o for o in related if comparison_group(o) == comparison_group(first)]
    minimising = [o for o in same_attacker if o.cell.attack.eps is None and o.cell.attack.norm is not None]
    return _RelatedOutcomes(related, any(not o.ok for o in minimising))


def _defense_result(related: _RelatedOutcomes, own: list[CellOutcomes]) -> _DefenseResult:
    """Gather all outcomes that count for one defense in one ball."""
    norm, eps = own[0].cell.attack.norm, own[0].cell.attack.eps
    assert norm is not None  # a ball has both
    assert eps is not None
    incomplete = related.incomplete or any(not o.ok for o in own)
    cases, attacks = {}, []
    for seeds in _seed_combinations(own, related):
        own_ok = [o for o in own if o.ok and _fits(o, seeds)]
        incomplete = incomplete or not any(_is_required(o) for o in own_ok)
        if own_ok:
            # Only images that met every attack count: otherwise a weak attack on many images would dilute
            # a strong attack on few. The order of the grid breaks ties in the same way in every row.
            counted = related.fitting(seeds).counted(own_ok, norm, eps)
            attacks += [*(o.cell.attack_label for o in own_ok), *counted.attacks]
            cases[seeds] = counted.worst_cases(norm, eps)
    return _DefenseResult(own, list(dict.fromkeys(attacks)), cases, incomplete)


def _seed_combinations(own: Sequence[CellOutcomes], related: _RelatedOutcomes) -> list[_Seeds]:
    """Each training with the seeds of its attacks at this eps, or at any eps if those are not random."""
    own_seeds = _attack_seeds(own)
    found = [
        (*training, seed)
        for training, seeds in own_seeds.items()
        for seed in seeds or related.attack_seeds.get(training) or {None}
    ]
    return sorted(found, key=str)


def _attack_seeds(outcomes: Sequence[CellOutcomes]) -> dict[tuple[Any, Any], set[Any]]:
    """The seeds of random attacks, by the seeds of target and defense."""
    seeds: dict[tuple[Any, Any], set[Any]] = {}
    for o in outcomes:
        record = o.record
        found = seeds.setdefault((record["target_seed"], record["defense_seed"]), set())
        if record["attack_seed"] is not None:
            found.add(record["attack_seed"])
    return seeds


def _fits(outcomes: CellOutcomes, seeds: _Seeds) -> bool:
    record = outcomes.record
    training = (record["target_seed"], record["defense_seed"])
    return training == seeds[:2] and record["attack_seed"] in (None, seeds[2])


def _row(result: _DefenseResult, n: int, controls: Sequence[_DefenseResult]) -> Row:
    """The row of a defense on its first n images, without a rank."""
    first = result.own[0].record
    row: Row = {name: first.get(name) for name in LEADERBOARD_COLUMNS}
    row |= {"control": result.control, "n": n, "seeds": len(result.cases)}
    row |= {"flags": "incomplete", "bound": "≥", "attacks": " ".join(result.attacks)}
    row |= dict.fromkeys(("clean_error", "psnr", "ssim", "purify_ms", "error", "error_low", "error_high"))
    if not result.cases:
        return row
    errors = np.stack(list(result.errors(n).values()))
    low, high = wilson(round(float(errors.sum())), n) if len(errors) == 1 else bootstrap_over_seeds(errors)
    ok = [o for o in result.own if o.ok]
    row |= {"error": float(errors.mean()), "error_low": low, "error_high": high}
    row["clean_error"] = float(np.mean([o.clean_wrong[:n].mean() for o in ok]))
    row |= {name: float(np.mean([o.fidelity[name][:n].mean() for o in ok])) for name in ("psnr", "ssim")}
    row["purify_ms"] = float(np.mean([o.record["purify_ms"] for o in ok]))
    flags = _row_flags(result, bool((errors < 1).any()), controls, n)
    row["flags"] = " ".join(flags)
    row["bound"] = "≥" if any(withholds(flag) for flag in flags) else "found"
    return row


def _row_flags(
    result: _DefenseResult, any_robust: bool, controls: Sequence[_DefenseResult], n: int
) -> list[str]:
    flags = ["incomplete"] if result.incomplete else []
    raised = dict.fromkeys(flag for o in result.own for flag in (o.record["flags"] or "").split())
    # A row without robust images claims nothing, so only doubts about its target remain: these make it void.
    flags += [flag for flag in raised if any_robust or (flag in FLAGS and FLAGS[flag].of_target)]
    if any_robust and _is_gradient_attack_weak(result.own):
        flags.append("weak-gradient-attack")
    if not result.control and not result.incomplete:
        comparisons = [_p_value_below(result, control, n) for control in controls]
        p_values = [p for p in comparisons if p is not None]
        if not controls or len(p_values) < len(controls):
            flags.append("unchecked:below-control")
        elif not all(holm(p_values)):
            flags.append("below-control")
    return flags


def _is_required(outcomes: CellOutcomes) -> bool:
    """Whether the attack is one of the strong attacks of the threat, one of which every row needs."""
    attack, threat = outcomes.cell.attack, THREATS[outcomes.cell.threat.name]
    return attack.mandatory and (attack.uses == "gradients" or not threat.gives_gradients)


def _is_gradient_attack_weak(own: Sequence[CellOutcomes]) -> bool:
    """Whether one attack beats every mandatory gradient attack by more than `_OUTDONE`.

    Only attacks with the defense in the loop are compared. The one that wins must be a trained generator, or
    use scores or labels alone.
    """
    in_loop = [o for o in own if o.ok and not THREATS[o.cell.threat.name].images_made_on_target]
    n = min((len(o.wrong) for o in in_loop), default=0)
    gradient = [o.wrong[:n].mean() for o in in_loop if _is_required(o) and o.cell.attack.uses == "gradients"]
    bounded = [o for o in in_loop if o.cell.attack.eps is not None]
    query_based = [o for o in bounded if o.cell.attack.uses not in ("gradients", "nothing")]
    trained = [o for o in bounded if o.cell.attack.trainable]
    others = [o.wrong[:n].mean() for o in (*query_based, *trained)]
    return bool(gradient and others and max(others) > max(gradient) + _OUTDONE)


def withholds(flag: str) -> bool:
    """Whether a flag of a row takes its rank away: a doubt does, a check that did not run does not."""
    return not is_unchecked(flag) and is_doubt(flag)


def _p_value_below(result: _DefenseResult, control: _DefenseResult, n: int) -> float | None:
    """Largest p-value over the seeds for a lower error than the control; None if not comparable.

    For a random control use only the joint selection among all outcomes: a maximum over several selections is
    biased upwards.
    """
    if control.incomplete or control.n < n:
        return None
    return max(
        (
            mcnemar_less(ours > 0.5, joint[:n] > 0.5)
            for seeds, ours in result.errors(n).items()
            for other, (joint, *_) in control.cases.items()
            if seeds[0] == other[0] and seeds[2] == other[2]
        ),
        default=None,
    )


def _ranked(results: list[_RankedResult]) -> list[_RankedResult]:
    """Rank the rows of one ball of a run by error; ties share a rank, rows in doubt have none and come last.

    `benchmark.publishing.board_files.rank_rows` ranks the rows of a published file, from several runs.
    """
    found = [pair for pair in results if pair[0]["bound"] == "found"]
    ranked = sorted(found, key=lambda pair: pair[0]["error"])
    errors = [row["error"] for row, _ in ranked]
    for row, _ in ranked:
        row["rank"] = errors.index(row["error"]) + 1
    return ranked + [pair for pair in results if pair[0]["bound"] != "found"]
