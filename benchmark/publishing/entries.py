"""From a run to the rows that may be published of it, or all that speaks against them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.errors import Problem, UserError, nearest
from benchmark.flags import FLAGS, is_doubt
from benchmark.leaderboard import COLUMNS as LEADERBOARD_COLUMNS
from benchmark.outside import handed_in
from benchmark.publishing.boards import read_rows
from benchmark.publishing.contests import contest_problems, controls
from benchmark.publishing.rows import doubts, grounds_problems, row_problems
from benchmark.publishing.run import FILES, Run, plugin_problems
from benchmark.records import Row
from benchmark.registry import Registry
from benchmark.writing import is_own, not_own

_FEW_SEEDS = 3


def entries(run: Run, explained: Mapping[str, str], plugins: Sequence[Path], registry: Registry) -> list[Row]:
    """The rows of a run as they would stand on the published leaderboard, without ranks.

    Args:
        run: The run.
        explained: A text for each doubt that its rows have.
        plugins: The plugin files that it was made with and that are not in the repository.
        registry: To know the controls.

    Raises:
        UserError: All that speaks against publishing them.
    """
    problems = list(_private(run))
    if problems:
        raise UserError(problems)
    problems = list(_unclean(run))
    rows, unread = read_rows(run.folder / "leaderboard.csv", LEADERBOARD_COLUMNS)
    problems += [*unread, *plugin_problems(run, plugins)]
    try:
        problems += [] if unread else _unsound(run, rows, explained, registry)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return [
        row
        | {"explained": _explanation(row, explained), "protocol": run.protocol(row)}
        | {"run": run.name, "commit": run.commit, "key": run.key(row)}
        for row in rows
    ]


def remarks(rows: Sequence[Row], beside: Sequence[Row]) -> Iterator[str]:
    """What is no reason to refuse rows: few seeds, and other commits than those beside them."""
    few = sum(row["seeds"] < _FEW_SEEDS for row in rows if not row["control"])
    if few:
        yield f"note: {few} rows rest on fewer than {_FEW_SEEDS} combinations of seeds; see their `seeds`"
    commits = {row["commit"] for row in (*rows, *beside)}
    if len(commits) > 1:
        yield f"note: rows beside each other come from {len(commits)} commits; see `bench verify --reproduce`"


def _explanation(row: Row, explained: Mapping[str, str]) -> str | None:
    """The texts for a row's doubts as JSON, by the doubt; None where it has none."""
    texts = {flag: explained[flag] for flag in doubts(row["flags"])}
    return json.dumps(texts) if texts else None


def _private(run: Run) -> Iterator[Problem]:
    """What must not be published, or means nothing to anybody else."""
    for name in (*FILES, "leaderboard.csv"):
        path = run.folder / name
        if os.path.lexists(path) and not is_own(path):
            yield from not_own(path).problems
            return
    try:
        handed_in(run.folder)
    except UserError as error:
        yield from error.problems
    files = run.about.get("files")
    if files:
        named = ", ".join(map(str, files)) if isinstance(files, list) else str(files)
        yield Problem(
            f"the grid names files of yours ({named}), so nobody else could compute its rows again",
            hint="publish a run whose grid names no file",
        )
    elif "grid_folder" in run.about:
        yield Problem(
            "run.json has `grid_folder`, a path on your machine that its grid does not need",
            hint="run the grid again: what the store holds is not computed again",
        )


def _unclean(run: Run) -> Iterator[Problem]:
    git = run.about.get("git")
    if not isinstance(git, dict) or "commit" not in git:
        hint = "run it in a clone of the repository"
        yield Problem("run.json names no commit: nobody can tell what made it", hint=hint)
    elif git.get("dirty") is not False:
        hint = "commit them, and run the grid again"
        yield Problem("the tree had changes that are in no commit", hint=hint)
    elif run.commit is None:
        yield Problem(f"run.json: {git['commit']!r} is no commit")
    if run.mixed_code:
        yield Problem(
            f"attacks and verdicts of the run were made by different code of {', '.join(run.mixed_code)}",
            hint="run the grid again with --reuse same-code",
        )


def _unsound(
    run: Run, rows: Sequence[Row], explained: Mapping[str, str], registry: Registry
) -> Iterator[Problem]:
    if not rows:
        yield Problem("the leaderboard of the run has no rows", hint="attacks with an `eps` make some")
    lost = run.lost
    if lost:
        yield Problem(f"{len(lost)} cells of the run are not in its records, such as {lost[0][:12]}")
    for cell in run.records:
        if cell["status"] not in ("ok", "skipped"):
            told = ", ".join(str(cell[name]) for name in ("dataset", "target", "defense", "attack", "threat"))
            reason = str(cell["reason"] or "").partition("\n")[0]
            text = f"cell {cell['key'][:12]} ({told}) is {cell['status']}: {reason}"
            yield Problem(text, hint="mend it, and run again")
    needed = controls(registry)
    found = [problem for row in rows for problem in row_problems(row, needed)]
    found = found or [problem for row in rows for problem in grounds_problems(row, run)]
    found = found or list(contest_problems(rows, lambda row: run, needed))
    yield from map(Problem, found)
    if not found:
        yield from _unexplained(rows, explained)


def _unexplained(rows: Sequence[Row], explained: Mapping[str, str]) -> Iterator[Problem]:
    raised: dict[str, list[str]] = {}
    for row in rows:
        for flag in doubts(row["flags"]):
            raised.setdefault(flag, []).append(row["defense"])
    for flag, members in raised.items():
        if not explained.get(flag, "").strip():
            text = f"{len(members)} rows are in doubt, {flag} ({', '.join(dict.fromkeys(members))})"
            hint = f'say why that may stand with --explain {flag}="…": {FLAGS[flag].raised_if}'
            yield Problem(f"{text}, and nothing explains it", hint=hint)
    for flag in explained:
        if flag not in raised:
            known = raised if flag in FLAGS and is_doubt(flag) else FLAGS
            yield Problem(f"--explain {flag}: no row has that doubt", hint=nearest(flag, known) or None)
