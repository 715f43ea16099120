"""From outcomes to records: one row of figures for each cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from benchmark.cells import Cell
from benchmark.errors import BudgetError, Failure, PluginError, UserError, worst
from benchmark.flags import (
    Findings,
    cell_flags,
    check_flags,
    gradient_flags,
    movement_flags,
    target_flags,
)
from benchmark.stats import wilson
from benchmark.tasks import Task
from benchmark.threats import THREATS

if TYPE_CHECKING:
    from benchmark.work.workshop import Workshop

# fmt: off
COLUMNS = (
    "dataset", "target", "target_config", "defense", "defense_config", "attack", "attack_config",
    "backend", "threat", "threat_config", "judge", "targeted", "norm", "eps", "target_seed",
    "defense_seed", "attack_seed", "n", "status", "clean_error_target", "clean_error",
    "error_target", "error_baseline", "error", "error_low", "error_high", "gain", "attack_success",
    "recovered", "damaged", "error_8bit", "error_top5", "label_error", "psnr_adv", "psnr",
    "ssim_adv", "ssim", "l0", "l2", "linf", "craft_ms", "purify_ms", "forwards", "backwards",
    "purifies", "routes", "eligible", "flags", "reason", "key",
)
# fmt: on
"""The columns of `records.csv`, in order."""

TIMINGS = ("craft_ms", "purify_ms")
"""The columns that differ between two computations of the same cell."""

_SOME = 0.01
"""Share of images without a gradient from which on it is no accident of one image."""

Row = dict[str, Any]
_Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """A cell's record, and the rows of its images where it is ok.

    `own` are the rows of what its attack found, `outcomes` those of what counts: images that were handed in
    may be worse. `outside` are the results of these.
    """

    row: Row
    outcomes: pyarrow.Table | None
    own: pyarrow.Table | None = None
    outside: tuple[tuple[Cell, Result], ...] = ()


def make_record(
    cell: Cell, failures: Mapping[str, Failure], workshop: Workshop, outside: Sequence[Cell] = ()
) -> Result:
    """The record of a cell from what the store holds.

    Args:
        cell: The cell.
        failures: The tasks that could not be done, by key.
        workshop: To read results with.
        outside: What was handed in for it, as cells of their own. Without them it would look better than it
            is, so it fails where they cannot be judged.
    """
    row: Row = dict.fromkeys(COLUMNS) | cell.identity | {"key": cell.key, "flags": "", "reason": ""}
    if cell.skipped:
        return Result(row | {"status": "skipped", "reason": cell.skipped}, None)
    failure = worst(failures.get(task.key) for each in (cell, *outside) for task in each.tasks)
    if failure is not None:
        return Result(row | {"status": failure.status, "reason": failure.reason}, None)
    try:
        own = outcomes = _outcomes(cell, workshop)
        _check_budget(cell, workshop)
        handed = [(each, _handed(each, workshop)) for each in outside]
        for _, result in handed:
            outcomes = _worse(cell, outcomes, result.own)
        row |= {"status": "ok"} | _figures(cell, _values(outcomes)) | _costs(cell, workshop)
        row["routes"] = json.dumps(_routes((cell, *outside), workshop))
        row["eligible"] = _eligible(cell, workshop)
        # of the attack itself: what others found makes it no stronger, and no weaker
        row["flags"] = " ".join(_flags(cell, _values(own), row, workshop))
    except BudgetError as error:
        return Result(row | {"status": "budget", "reason": str(error)}, None)
    except (PluginError, UserError) as error:  # a damaged result was computed again, and this time it failed
        return Result(row | {"status": "failed", "reason": str(error)}, None)
    return Result(row, outcomes, own, tuple(handed))


def _outcomes(cell: Cell, workshop: Workshop) -> pyarrow.Table:
    return pyarrow.concat_tables([workshop.table(score) for score in cell.scores])


def _values(outcomes: pyarrow.Table) -> dict[str, _Array]:
    return {name: np.asarray(outcomes[name]) for name in outcomes.column_names}


def _handed(cell: Cell, workshop: Workshop) -> Result:
    """The outcomes of images that were handed in, with a row that says whose they are."""
    outcomes = _outcomes(cell, workshop)
    row = dict.fromkeys(COLUMNS) | cell.identity | {"status": "ok", "flags": ""}
    return Result(row, outcomes, outcomes)


def _worse(cell: Cell, ours: pyarrow.Table, theirs: pyarrow.Table) -> pyarrow.Table:
    """For each image the row that counts: of the larger margin, or of the nearer image that is wrong."""
    margins = [table["margin"].to_numpy() for table in (ours, theirs)]
    better = margins[1] > margins[0]
    if cell.attack.norm is not None and cell.attack.eps is None:
        sizes = [table[cell.attack.norm].to_numpy() for table in (ours, theirs)]
        near, nearer = (np.where(m > 0, size, np.inf) for m, size in zip(margins, sizes, strict=True))
        better = np.where(np.isinf(near) & np.isinf(nearer), better, nearer < near)
    rows = np.arange(len(ours)) + len(ours) * better
    return pyarrow.concat_tables([ours, theirs]).take(rows)


def _figures(cell: Cell, values: Mapping[str, _Array]) -> Row:
    labels = values["label"]
    wrong = {
        name: values[name] != labels
        for name in ("target_clean", "clean", "baseline", "target_adversarial", "adversarial_8bit")
    }
    adversarial, errors, n = values["wrong"], float(values["wrong"].sum()), len(labels)
    low, high = wilson(round(errors), n)
    baseline = wrong["baseline"].mean() if cell.scores[0].baseline else None
    row: Row = {
        "clean_error_target": wrong["target_clean"].mean(),
        "clean_error": values["clean_wrong"].mean(),
        "error_target": wrong["target_adversarial"].mean(),
        "error_baseline": baseline,
        "error": errors / n,
        "error_low": low,
        "error_high": high,
        "gain": None if baseline is None else baseline - errors / n,
        "attack_success": _share(adversarial, ~wrong["clean"]),
        "damaged": _share(values["clean_wrong"], ~wrong["target_clean"]),
        "error_8bit": wrong["adversarial_8bit"].mean(),
    }
    if THREATS[cell.threat.name].images_made_on_target:
        row["recovered"] = _share(1 - adversarial, wrong["target_adversarial"])
    if "decided" in values:
        row["label_error"] = (values["decided"] != labels).mean()
    if "in_top5" in values:
        row["error_top5"] = (~values["in_top5"]).mean()
    for name in ("psnr_adv", "psnr", "ssim_adv", "ssim"):
        row[name] = values[name].mean()
    for norm in ("l0", "l2", "linf"):
        distance = np.where(adversarial > 0.5, values[norm], np.inf)[~wrong["clean"]]
        row[norm] = np.median(distance) if len(distance) else None
    return {name: None if value is None else float(value) for name, value in row.items()}


def _share(event: _Array, among: _Array) -> float | None:
    return event[among].mean() if among.any() else None


def _routes(cells: Sequence[Cell], workshop: Workshop) -> dict[str, float]:
    """The error by each way of changing the images, on the draws that they were selected by."""
    errors: dict[str, float] = {}
    for cell in cells:
        found = [workshop.meta(score)["routes"] for score in cell.scores]
        for route in found[0]:
            again = sum(known.partition(" #")[0] == route for known in errors)  # an origin may hand in twice
            name = f"{route} #{again + 1}" if again else route
            errors[name] = sum(counts[route] for counts in found) / cell.n
    return errors


def _eligible(cell: Cell, workshop: Workshop) -> str | None:
    """Which of RobustBench's three rules the defense breaks (Croce et al. 2021, section 2), or `yes`.

    Gradients with respect to the image that are not zero, no randomness, no optimisation at inference. Told
    where the pipeline's gradient was looked at.
    """
    if "pipeline" not in THREATS[cell.threat.name].probes:
        return None
    broken = {
        "zero-gradient": _blind(cell, "pipeline", workshop).mean() > _SOME,
        "random": cell.purifier.stochastic,
        "optimisation": any(part.defense.inner_optimisation for part in cell.purifier.parts),
    }
    return " ".join(rule for rule, is_broken in broken.items() if is_broken) or "yes"


def _flags(cell: Cell, values: Mapping[str, _Array], row: Row, workshop: Workshop) -> Iterable[str]:
    threat = THREATS[cell.threat.name]
    survives = values["wrong"] < 1
    found = cell_flags(cell, clean_error=row["clean_error"], clean_error_target=row["clean_error_target"])
    factors = [workshop.meta(score)["score_factors"].values() for score in cell.scores]
    found += target_flags(
        cell,
        answers=[values["target_clean"], *_answers_of_base(cell, workshop)],
        labels=values["label"],
        score_factors=set(chain.from_iterable(factors)),
    )
    if cell.attack.uses == "gradients" and threat.probes:
        found += gradient_flags(
            cell,
            survives=survives,
            baseline_wrong=values["baseline"] != values["label"],
            target_blind=_blind(cell, "target", workshop),
            attacked_blind=_blind(cell, threat.probes[-1], workshop),
            attacked_moves=_probed(cell, threat.probes[-1], "responds", workshop),
            lost_gradients=any(workshop.meta(score)["costs"]["blind"] for score in cell.scores),
        )
    if any(workshop.opened(score) for score in cell.scores):
        found.append("undeclared-file")
    found += movement_flags(cell, survives=survives, size=values[cell.attack.norm or "linf"])
    return [*found, *check_flags(cell, survives, _findings(cell, workshop))]


def _answers_of_base(cell: Cell, workshop: Workshop) -> Iterator[_Array]:
    """The classes of the clean images by the target that the images were made on, if it is another one.

    Results of older versions do not have them.
    """
    base = cell.craft_on
    probes = [p for p in cell.probes if base is not None and p.surface.target.key == base.key]
    probes = [p for p in probes if p.surface.purifier is None]
    found = [workshop.tensors(probe).get("classes") for probe in probes]
    if found and all(classes is not None for classes in found):
        yield np.concatenate([classes.numpy() for classes in found if classes is not None])


def _blind(cell: Cell, form: str, workshop: Workshop) -> _Array:
    """At which clean images a surface has no gradient, of the loss that the attack follows."""
    loss = "stable" if cell.attack.backend == "native" or cell.attack.eps is None else "plain"
    blind: _Array = _probed(cell, form, loss, workshop) == 0
    return blind


def _probed(cell: Cell, form: str, name: str, workshop: Workshop) -> _Array:
    probes = [probe for probe in cell.probes if probe.surface.form == form]
    found: _Array = np.concatenate([workshop.tensors(probe)[name].numpy() for probe in probes])
    return found


def _findings(cell: Cell, workshop: Workshop) -> Findings:
    """What the checks of a cell found."""
    checks = cell.checks
    assert checks is not None

    def numbers(task: Task) -> dict[str, _Array]:
        return {name: tensor.numpy() for name, tensor in workshop.tensors(task).items()}

    return Findings(
        apart=numbers(checks.examine),
        examined=workshop.meta(checks.examine),
        contradicted=sum(workshop.meta(score)["contradicted"] for score in cell.scores),
        efforts=[workshop.meta(effort) for effort in cell.efforts],
        slope=None if checks.slope is None else numbers(checks.slope),
        unbounded=None if checks.unbounded is None else np.asarray(workshop.table(checks.unbounded)["wrong"]),
        noise=None if checks.noise is None else numbers(checks.noise)["misclassified"],
    )


def _check_budget(cell: Cell, workshop: Workshop) -> None:
    """Results in the store may be of a run that had a larger budget, or none."""
    costs = [workshop.meta(score)["costs"] for score in cell.scores]
    passes = max(cost["forwards"] + cost["backwards"] for cost in costs)
    if passes > workshop.budget:
        raise BudgetError(f"the attacks asked for {passes:.0f}, more than {workshop.allowance}")


def _costs(cell: Cell, workshop: Workshop) -> Row:
    """Per image, over the shards."""
    costs = [workshop.meta(score)["costs"] for score in cell.scores]
    sizes = [len(score.shard.indices) for score in cell.scores]
    return {
        name: float(np.average([cost[name] for cost in costs], weights=sizes))
        for name in costs[0]
        if name in COLUMNS
    }
