"""From the outcomes of a cell to its record: one row of `records.csv`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from benchmark.errors import BudgetError, Failure, most_severe
from benchmark.files.tables import Row
from benchmark.metrics.statistics import wilson
from benchmark.plan.cells import Cell
from benchmark.plan.tasks import Task
from benchmark.plan.threats import THREATS
from benchmark.results.columns import RECORD_COLUMNS
from benchmark.results.flags import CheckResults, cell_flags, check_flags, gradient_flags, target_flags

if TYPE_CHECKING:
    from benchmark.execution.context import ExecutionContext

TIMINGS = ("craft_ms", "purify_ms")
"""The columns that differ between two computations of the same cell."""

_SOME_IMAGES = 0.01
"""More images than this share without a gradient are no accident."""

_Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """A cell's record, with tables of one outcome per image if the cell is ok.

    Attributes:
        record: The row of `records.csv`.
        outcomes: The worst outcome of each image, external images included.
        own: The outcomes of the cell's own attack alone.
        external: A cell and a result for each set of external images.
    """

    record: Row
    outcomes: pyarrow.Table | None
    own: pyarrow.Table | None = None
    external: tuple[tuple[Cell, Result], ...] = ()


def make_record(
    cell: Cell, failures: Mapping[str, Failure], context: ExecutionContext, external: Sequence[Cell] = ()
) -> Result:
    """Make the record of a cell from the stored results; `failures` are tasks by key.

    `external` are external images of the cell, each as a cell. If they cannot be judged, the cell fails:
    without them it would look more robust than it is.
    """
    record: Row = dict.fromkeys(RECORD_COLUMNS) | cell.identity | {"key": cell.key, "flags": "", "reason": ""}
    if cell.skipped:
        return Result(record | {"status": "skipped", "reason": cell.skipped}, None)
    failure = most_severe(failures.get(task.key) for member in (cell, *external) for task in member.tasks)
    if failure is not None:
        return Result(record | {"status": failure.status, "reason": failure.reason}, None)
    try:
        return _scored(record, cell, external, context)
    except BudgetError as error:
        return Result(record | {"status": "budget", "reason": str(error)}, None)


def _scored(record: Row, cell: Cell, external: Sequence[Cell], context: ExecutionContext) -> Result:
    """The result of a cell whose scores are stored."""
    own = outcomes = _outcomes(cell, context)
    _check_budget(cell, context)
    results = [(member, _external_result(member, context)) for member in external]
    for _, result in results:
        outcomes = _worse_of(cell, outcomes, result.own)
    record = record | {"status": "ok"} | _rates(cell, _values(outcomes)) | _costs(cell, context)
    record["routes"] = json.dumps(_error_by_route((cell, *external), context))
    record["eligible"] = _robustbench_eligibility(cell, context)
    # The flags judge the cell's own attack: external images make it neither stronger nor weaker.
    record["flags"] = " ".join(_flags(cell, _values(own), record, context))
    return Result(record, outcomes, own, tuple(results))


def _outcomes(cell: Cell, context: ExecutionContext) -> pyarrow.Table:
    return pyarrow.concat_tables([context.table(score) for score in cell.scores])


def _values(outcomes: pyarrow.Table) -> dict[str, _Array]:
    return {name: np.asarray(outcomes[name]) for name in outcomes.column_names}


def _external_result(cell: Cell, context: ExecutionContext) -> Result:
    outcomes = _outcomes(cell, context)
    record = dict.fromkeys(RECORD_COLUMNS) | cell.identity | {"status": "ok", "flags": ""}
    return Result(record, outcomes, outcomes)


def _worse_of(cell: Cell, ours: pyarrow.Table, theirs: pyarrow.Table) -> pyarrow.Table:
    """The worse outcome of each image: the larger margin; for a norm-minimising attack the nearer image."""
    margins = [table["margin"].to_numpy() for table in (ours, theirs)]
    take_theirs = margins[1] > margins[0]
    if cell.attack.norm is not None and cell.attack.eps is None:
        distances = [table[cell.attack.norm].to_numpy() for table in (ours, theirs)]
        # an image that does not fool the pipeline is infinitely far
        a, b = (np.where(m > 0, distance, np.inf) for m, distance in zip(margins, distances, strict=True))
        take_theirs = np.where(np.isinf(a) & np.isinf(b), take_theirs, b < a)
    rows = np.arange(len(ours)) + len(ours) * take_theirs
    return pyarrow.concat_tables([ours, theirs]).take(rows)


def _rates(cell: Cell, values: Mapping[str, _Array]) -> Row:
    """Error rates with their interval, image quality, and distances."""
    labels = values["label"]
    predictions = ("target_clean", "clean", "baseline", "target_adversarial", "adversarial_8bit")
    misclassified = {name: values[name] != labels for name in predictions}
    wrong, n = values["wrong"], len(labels)
    errors = float(wrong.sum())
    low, high = wilson(round(errors), n)
    baseline = misclassified["baseline"].mean() if cell.scores[0].baseline else None
    row: Row = {
        "clean_error_target": misclassified["target_clean"].mean(),
        "clean_error": values["clean_wrong"].mean(),
        "error_target": misclassified["target_adversarial"].mean(),
        "error_baseline": baseline,
        "error": errors / n,
        "error_low": low,
        "error_high": high,
        "gain": None if baseline is None else baseline - errors / n,
        "attack_success": _mean(wrong, ~misclassified["clean"]),
        "damaged": _mean(values["clean_wrong"], ~misclassified["target_clean"]),
        "error_8bit": misclassified["adversarial_8bit"].mean(),
    }
    if THREATS[cell.threat.name].images_made_on_target:
        row["recovered"] = _mean(1 - wrong, misclassified["target_adversarial"])
    if "decided" in values:
        row["label_error"] = (values["decided"] != labels).mean()
    if "in_top5" in values:
        row["error_top5"] = (~values["in_top5"]).mean()
    for name in ("psnr_adv", "psnr", "ssim_adv", "ssim"):
        row[name] = values[name].mean()
    for norm in ("l0", "l2", "linf"):
        distance = np.where(wrong > 0.5, values[norm], np.inf)[~misclassified["clean"]]
        row[norm] = np.median(distance) if len(distance) else None
    return {name: None if value is None else float(value) for name, value in row.items()}


def _mean(values: _Array, mask: _Array) -> float | None:
    return values[mask].mean() if mask.any() else None


def _error_by_route(cells: Sequence[Cell], context: ExecutionContext) -> dict[str, float]:
    """The error of each route, on the draws on which the candidates were selected."""
    errors: dict[str, float] = {}
    for cell in cells:
        counts = [context.meta(score)["routes"] for score in cell.scores]
        for route in counts[0]:
            # the same origin may submit several sets of external images
            earlier = sum(name.partition(" #")[0] == route for name in errors)
            name = f"{route} #{earlier + 1}" if earlier else route
            errors[name] = sum(count[route] for count in counts) / cell.n
    return errors


def _robustbench_eligibility(cell: Cell, context: ExecutionContext) -> str | None:
    """The rules of RobustBench that the defense breaks (Croce et al. 2021, section 2), or `yes`.

    The rules: gradients with respect to the image are not zero, no randomness, no optimisation at inference.
    None if the gradient of the pipeline was not probed.
    """
    if "pipeline" not in THREATS[cell.threat.name].probes:
        return None
    broken = {
        # RobustBench's rule, stricter than the flag of this name
        "zero-gradient": _without_gradient(cell, "pipeline", context).mean() > _SOME_IMAGES,
        "random": cell.purifier.stochastic,
        "optimisation": any(part.defense.inner_optimisation for part in cell.purifier.parts),
    }
    return " ".join(rule for rule, is_broken in broken.items() if is_broken) or "yes"


def _flags(cell: Cell, values: Mapping[str, _Array], record: Row, context: ExecutionContext) -> Iterable[str]:
    threat = THREATS[cell.threat.name]
    robust = values["wrong"] < 1
    clean_errors = {name: record[name] for name in ("clean_error", "clean_error_target")}
    flags = cell_flags(cell, **clean_errors)
    predictions = [values["target_clean"], *_predictions_of_base(cell, context)]
    factors = [factor for score in cell.scores for factor in context.meta(score)["score_factors"].values()]
    flags += target_flags(cell, predictions=predictions, labels=values["label"], score_factors=factors)
    if cell.attack.uses == "gradients" and threat.probes:
        flags += gradient_flags(
            robust=robust,
            baseline_misclassified=values["baseline"] != values["label"],
            target_without_gradient=_without_gradient(cell, "target", context),
            attacked_without_gradient=_without_gradient(cell, threat.attacked_form(), context),
            attacked_responds=_probe_values(cell, threat.attacked_form(), "responds", context),
            nonfinite_gradients=any(context.meta(score)["costs"]["blind"] for score in cell.scores),
        )
    if any(context.opened(score) for score in cell.scores):
        flags.append("undeclared-file")
    distance, results = values[cell.attack.norm or "linf"], _check_results(cell, context)
    return flags + check_flags(cell, robust=robust, distance=distance, results=results)


def _predictions_of_base(cell: Cell, context: ExecutionContext) -> Iterator[_Array]:
    """Predictions on the clean images by the target of `craft_on`; none in results of older versions."""
    base = cell.craft_on
    bare = [probe for probe in cell.probes if probe.surface.purifier is None]
    probes = [probe for probe in bare if base is not None and probe.surface.target.key == base.key]
    classes = [context.tensors(probe).get("classes") for probe in probes]
    stored = [tensor.numpy() for tensor in classes if tensor is not None]
    if stored and len(stored) == len(classes):
        yield np.concatenate(stored)


def _without_gradient(cell: Cell, form: str, context: ExecutionContext) -> _Array:
    """Clean images at which a surface has no gradient of the loss that the attack follows."""
    loss = "stable" if cell.attack.backend == "native" or cell.attack.eps is None else "plain"
    is_zero: _Array = _probe_values(cell, form, loss, context) == 0
    return is_zero


def _probe_values(cell: Cell, form: str, name: str, context: ExecutionContext) -> _Array:
    probes = [probe for probe in cell.probes if probe.surface.form == form]
    values: _Array = np.concatenate([context.tensors(probe)[name].numpy() for probe in probes])
    return values


def _check_results(cell: Cell, context: ExecutionContext) -> CheckResults:
    checks = cell.checks
    assert checks is not None

    def numbers(task: Task) -> dict[str, _Array]:
        return {name: tensor.numpy() for name, tensor in context.tensors(task).items()}

    return CheckResults(
        differences=numbers(checks.consistency),
        consistency=context.meta(checks.consistency),
        contradicted=sum(context.meta(score)["contradicted"] for score in cell.scores),
        searches=[context.meta(effort) for effort in cell.convergence_searches],
        slope=None if checks.finite_differences is None else numbers(checks.finite_differences),
        unbounded=None if checks.unbounded is None else np.asarray(context.table(checks.unbounded)["wrong"]),
        noise=None if checks.random_search is None else numbers(checks.random_search)["misclassified"],
    )


def _check_budget(cell: Cell, context: ExecutionContext) -> None:
    """Stored results may come from a run with a larger budget, or without one."""
    costs = [context.meta(score)["costs"] for score in cell.scores]
    passes = max(cost["forwards"] + cost["backwards"] for cost in costs)
    if passes > context.budget:
        raise BudgetError(f"the attacks used {passes:.0f} passes per image, more than {context.allowance}")


def _costs(cell: Cell, context: ExecutionContext) -> Row:
    """Costs per image, averaged over the shards."""
    costs = [context.meta(score)["costs"] for score in cell.scores]
    sizes = [len(score.shard.indices) for score in cell.scores]
    names = [name for name in costs[0] if name in RECORD_COLUMNS]
    return {name: float(np.average([cost[name] for cost in costs], weights=sizes)) for name in names}
