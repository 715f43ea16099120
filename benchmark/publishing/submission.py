"""Turns a finished run into rows for the leaderboard, or reports every reason against it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

from benchmark.errors import Problem, UserError, nearest
from benchmark.files.tables import Row
from benchmark.files.writing import is_regular_file, not_regular_file
from benchmark.plugins.fingerprint import imported_beside
from benchmark.plugins.registry import Registry
from benchmark.publishing.board_files import read_rows
from benchmark.publishing.comparability import comparability_problems, control_configs
from benchmark.publishing.published_run import FILES, Run, plugin_problems
from benchmark.publishing.row_checks import doubts, record_problems, row_problems
from benchmark.results.cell_outcomes import group_by
from benchmark.results.columns import LEADERBOARD_COLUMNS
from benchmark.results.external_images import external_entries
from benchmark.results.flags import FLAGS, is_doubt

_FEW_SEEDS = 3


def publishable_rows(
    run: Run, explained: Mapping[str, str], plugins: Sequence[Path], registry: Registry
) -> list[Row]:
    """The rows of a run as the published leaderboard has them, without ranks.

    Args:
        explained: An explanation for each doubt that its rows have, by flag.
        plugins: The plugin files of the run that are not part of the repository.

    Raises:
        UserError: The run cannot be published; names every reason.
    """
    problems = list(_privacy_problems(run))
    if problems:
        raise UserError(problems)
    problems = list(_code_problems(run))
    rows, unread = read_rows(run.folder / "leaderboard.csv", LEADERBOARD_COLUMNS)
    problems += [*unread, *plugin_problems(run, plugins), *_import_problems(plugins)]
    try:
        problems += [] if unread else _content_problems(run, rows, explained, registry)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    published = []
    for row in rows:
        texts = {flag: explained[flag] for flag in doubts(row["flags"])}
        origin = {"run": run.name, "commit": run.commit, "key": run.key(row), "protocol": run.protocol(row)}
        published.append(row | origin | {"explained": json.dumps(texts) if texts else None})
    return published


def publication_notes(rows: Sequence[Row], published: Sequence[Row]) -> Iterator[str]:
    """Weaknesses that do not prevent publication: few seeds, and commits that differ from `published`."""
    few = sum(row["seeds"] < _FEW_SEEDS for row in rows if not row["control"])
    if few:
        yield f"note: {few} rows have fewer than {_FEW_SEEDS} combinations of seeds; see their `seeds`"
    commits = {row["commit"] for row in (*rows, *published)}
    if len(commits) > 1:
        yield f"note: the rows of a file come from {len(commits)} commits; see `bench verify --reproduce`"


def _import_problems(plugins: Sequence[Path]) -> Iterator[Problem]:
    """Plugin files are published alone, so one that imports modules beside it would not run elsewhere."""
    for path in plugins:
        names = ", ".join(file.name for file in imported_beside(path))
        if names:
            hint = "put the code into one file, or into a package that is installed"
            yield Problem(f"{path} imports {names}, which would not be published with it", hint=hint)


def _privacy_problems(run: Run) -> Iterator[Problem]:
    """Files and paths that are private, or useless on another machine."""
    for name in (*FILES, "leaderboard.csv"):
        path = run.folder / name
        if os.path.lexists(path) and not is_regular_file(path):
            yield from not_regular_file(path).problems
            return
    try:
        external_entries(run.folder)
    except UserError as error:
        yield from error.problems
    files = run.metadata.get("files")
    if files:
        names = ", ".join(map(str, files)) if isinstance(files, list) else str(files)
        yield Problem(
            f"the grid names files of yours ({names}), so that others cannot reproduce its rows",
            hint="publish a run whose grid names no file",
        )
    elif "grid_folder" in run.metadata:
        yield Problem(
            "run.json has `grid_folder`, a path on your machine that its grid does not need",
            hint="run the grid again: results in the store are not computed again",
        )


def _code_problems(run: Run) -> Iterator[Problem]:
    git = run.metadata.get("git")
    if not isinstance(git, dict) or "commit" not in git:
        hint = "run it in a clone of the repository"
        yield Problem("run.json names no commit, so that the code of the run is unknown", hint=hint)
    elif git.get("dirty") is not False:
        yield Problem("the working tree had uncommitted changes", hint="commit them, and run the grid again")
    elif run.commit is None:
        yield Problem(f"run.json: {git['commit']!r} is not a commit")
    if run.mixed_code:
        yield Problem(
            f"results of the run were made by different code of {', '.join(run.mixed_code)}",
            hint="run the grid again with --reuse same-code",
        )


def _content_problems(
    run: Run, rows: Sequence[Row], explained: Mapping[str, str], registry: Registry
) -> Iterator[Problem]:
    if not rows:
        yield Problem("the leaderboard of the run has no rows", hint="rows come from attacks with an `eps`")
    missing = run.missing_cells
    if missing:
        yield Problem(f"{len(missing)} planned cells have no record, such as {missing[0][:12]}")
    for cell in run.records:
        if cell["status"] not in ("ok", "skipped"):
            columns = ("dataset", "target", "defense", "attack", "threat")
            names = ", ".join(str(cell[name]) for name in columns)
            reason = str(cell["reason"] or "").partition("\n")[0]
            text = f"cell {cell['key'][:12]} ({names}) is {cell['status']}: {reason}"
            yield Problem(text, hint="fix the cause, and run again")
    controls = control_configs(registry)
    problems = [problem for row in rows for problem in row_problems(row, controls)]
    problems = problems or [problem for row in rows for problem in record_problems(row, run)]
    problems = problems or list(comparability_problems(rows, lambda row: run, controls))
    yield from map(Problem, problems)
    if not problems:
        yield from _explanation_problems(rows, explained)


def _explanation_problems(rows: Sequence[Row], explained: Mapping[str, str]) -> Iterator[Problem]:
    doubted = group_by(
        [(flag, row["defense"]) for row in rows for flag in doubts(row["flags"])], itemgetter(0)
    )
    for flag, doubtful in doubted.items():
        if not explained.get(flag, "").strip():
            names = ", ".join(dict.fromkeys(defense for _, defense in doubtful))
            yield Problem(
                f"{len(doubtful)} rows have the doubt {flag} ({names}) without an explanation",
                hint=f'explain it with --explain {flag}="…": {FLAGS[flag].raised_if}',
            )
    for flag in explained:
        if flag not in doubted:
            known = doubted if flag in FLAGS and is_doubt(flag) else FLAGS
            yield Problem(f"--explain {flag}: no row has that doubt", hint=nearest(flag, known) or None)
