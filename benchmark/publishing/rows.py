"""What is wrong with a single row: in itself, and by the run that it rests on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from benchmark.flags import FLAGS, is_unchecked
from benchmark.leaderboard import withholds
from benchmark.publishing.boards import about
from benchmark.publishing.run import Run
from benchmark.records import Row
from benchmark.stats import wilson
from benchmark.threats import THREATS

_RATES = ("clean_error", "error", "error_low", "error_high")
_NEEDED = (
    *("dataset", "target", "threat", "judge", "norm", "eps", "defense", "control", "n", "seeds", "bound"),
    *_RATES,
)
_ROUNDING = 1e-6


def doubts(flags: str | None) -> list[str]:
    """Those flags that take a rank away."""
    return [flag for flag in (flags or "").split() if withholds(flag)]


def row_problems(row: Row, controls: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a row by itself: fields, figures, doubts.

    Args:
        row: A row of a leaderboard.
        controls: The harness's own placebos with their parameters.
    """
    missing = [name for name in _NEEDED if row[name] is None]
    if missing:
        yield f"{', '.join(missing)} is empty: {row['defense']} on {row['target']}"
        return
    if row["threat"] not in THREATS:
        yield f"threat {row['threat']!r} is none of {', '.join(THREATS)}"
        return
    for name in ("target_config", "threat_config", "defense_config"):
        if not is_mapping(row[name]):
            yield f"{name} is no JSON mapping"
    unknown = [f for f in (row["flags"] or "").split() if f not in FLAGS and not is_unchecked(f)]
    if unknown:
        yield f"flags {', '.join(unknown)}: there is none of that name"
        return
    if row["control"] and row["defense"] not in controls:
        yield f"{row['defense']} is none of the controls {', '.join(controls)}"
    yield from _figure_problems(row)
    raised = doubts(row["flags"])
    if row["bound"] != ("≥" if raised else "found"):
        yield f"bound is {row['bound']!r}, but the row has {', '.join(raised) or 'no doubt'}"


def is_mapping(text: str | None) -> bool:
    """Whether a text is a JSON mapping; an empty one counts."""
    try:
        return isinstance(json.loads(text or "{}"), dict)
    except ValueError:
        return False


def _figure_problems(row: Row) -> Iterator[str]:
    wrong = [name for name in _RATES if not 0 <= row[name] <= 1]
    if wrong:
        yield f"{wrong[0]} is {row[wrong[0]]}, but a rate is between 0 and 1"
    elif row["n"] < 1 or row["seeds"] < 1:
        yield f"n is {row['n']} and seeds {row['seeds']}; both are 1 or more"
    elif row["seeds"] == 1:
        low, high = wilson(round(row["error"] * row["n"]), row["n"])
        if max(abs(low - row["error_low"]), abs(high - row["error_high"])) > _ROUNDING:
            yield f"the interval of error {row['error']} is not Wilson's of {row['n']} images"
    elif not row["error_low"] - _ROUNDING <= row["error"] <= row["error_high"] + _ROUNDING:
        yield f"error {row['error']} lies outside of its interval {row['error_low']}–{row['error_high']}"


def grounds_problems(row: Row, run: Run) -> Iterator[str]:
    """What the run says otherwise that a row rests on.

    Raises:
        UserError: The run cannot be read.
    """
    own = run.own(row)
    if not own:
        yield f"no cell of the run is of {about(row)}"
        return
    if row["n"] > min(cell["n"] for cell in own):
        yield f"n is {row['n']}, but its cells have {min(cell['n'] for cell in own)} images"
    if row["seeds"] != len(run.by_seeds(row)):
        yield f"seeds is {row['seeds']}, but its cells have {len(run.by_seeds(row))} combinations"
    for name in ("judge", "eligible"):
        told = {cell[name] for cell in own}
        if row[name] not in told:
            yield f"{name} is {row[name]!r}, but its cells say {', '.join(map(repr, told))}"
    raised = {flag for cell in own for flag in doubts(cell["flags"])} - set(doubts(row["flags"]))
    if row["error"] == 1:  # a row that claims nothing keeps only the doubts about its target
        raised = {flag for flag in raised if FLAGS[flag].of_target}
    if raised:
        yield f"its cells are in doubt, {', '.join(sorted(raised))}, and the row does not say so"
    yield from _too_low(row, run)


def _too_low(row: Row, run: Run) -> Iterator[str]:
    """A worst case per image is no lower than the error of any attack alone, nor than that of none."""
    highest = []
    for cells in run.by_seeds(row):
        there = [cell for cell in cells if cell["n"] == row["n"]]
        highest.append(max((cell[name] for cell in there for name in ("error", "clean_error")), default=0))
    bound = sum(highest) / len(highest)
    if row["error"] < bound - _ROUNDING:
        yield f"error is {row['error']}, but a cell of the run, or no attack at all, has {bound:.6g}"
