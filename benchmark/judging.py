"""Counting adversarial images that were made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.executor import Observer, execute
from benchmark.outside import find_cell, hand_in, note, outside_cells
from benchmark.plan import Plan
from benchmark.records import Row
from benchmark.runs import Prepared, run_prepared


@dataclass(frozen=True)
class Judgement:
    """The record of the cell as it is now, and how many images did not count since they left the ball."""

    row: Row
    left: int


def judge(
    prepared: Prepared, observer: Observer, run: Path, key: str, images: Path, origin: str
) -> Judgement:
    """Clip, measure and judge images, have them count for their cell from now on, and rank the run anew.

    Args:
        prepared: The run, as it was planned.
        observer: Who wants to know how it goes.
        run: Its folder.
        key: The key of the cell, or how it begins.
        images: A safetensors file, as `hand_in` takes it.
        origin: Where they come from, for the records.

    Raises:
        UserError: There is no such cell, the file does not hold such images, or the pipeline cannot take
            them; nothing counts then.
    """
    cell = find_cell(prepared.plan, key)
    entry, left = hand_in(prepared.workshop, cell, images, origin)
    trial = Plan.of(outside_cells(prepared.plan, [entry])[cell.key])
    failures = execute(trial, prepared.workshop, observer).failures
    if failures:
        reason = next(iter(failures.values())).reason
        raise UserError(f"these images cannot be judged, and do not count: {reason}")
    note(run, entry)
    finished = run_prepared(prepared, observer, run)
    return Judgement(next(row for row in finished.records if row["key"] == cell.key), left)
