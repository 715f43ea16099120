"""`bench publish` and `bench verify`: rows on the published leaderboard, and whether they hold."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import Data, Device, Plugins, Trust, parse_pairs
from benchmark.errors import UserError


def publish(
    run: Annotated[Path | None, typer.Argument(help="The folder of a run.")] = None,
    explain: Annotated[
        list[str] | None,
        typer.Option("--explain", help="FLAG=TEXT: your explanation of a doubt; may be repeated."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the changes; otherwise they are only shown.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Remove the last publication.")] = False,
    board: Annotated[Path, typer.Option("--board", help="The folder of the published leaderboard.")] = Path(
        "results/leaderboard"
    ),
    plugin: Plugins = None,
) -> None:
    """Add the leaderboard of a run to the published one, or list all reasons why that is not possible."""
    from benchmark.plugins.registry import default_registry
    from benchmark.publishing.board_changes import describe_changes, plan_changes
    from benchmark.publishing.board_files import file_name, read_board
    from benchmark.publishing.publication import plan_undo, publish_rows, undo_publication
    from benchmark.publishing.published_run import Run
    from benchmark.publishing.submission import publication_notes, publishable_rows

    explanations = parse_pairs(explain or [], "--explain", "FLAG=TEXT")
    if undo == (run is not None) or (undo and (explanations or plugin)):
        message = "name the folder of a run, or use --undo without --explain and --plugin"
        raise UserError(message, hint="e.g. bench publish results/runs/NAME")
    lines: Iterable[str]
    if run is None and apply:
        lines = undo_publication(board)
    elif run is None:
        lines = describe_changes(board, plan_undo(board))
    else:
        registry, submitted = default_registry(), Run(run)
        rows = publishable_rows(submitted, explanations, plugin or [], registry)
        files = {file_name(row) for row in rows}
        lines = list(publication_notes(rows, [row for file in files for row in read_board(board / file)]))
        if apply:
            lines += publish_rows(board, submitted, rows, plugin or [], registry)
        else:
            lines += describe_changes(board, plan_changes(board, submitted, rows, registry))
    for line in lines:
        typer.echo(line)
    typer.echo(f"written to {board}" if apply else "nothing was written; to write these changes, add --apply")


def verify(
    files: Annotated[list[Path], typer.Argument(help="Published .csv files, or the folder with them.")],
    again: Annotated[
        int,
        typer.Option(
            "--reproduce", help="Number of rows of each file to compute again, chosen at random.", min=0
        ),
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed for the choice of these rows (default: random, and printed)."),
    ] = None,
    data: Data = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Folder or URL of stored results to use (default: only weights from the zoo).",
        ),
    ] = None,
    device: Device = "auto",
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Check published files: columns, keys, ranks, doubts; status 1 if something is wrong."""
    from benchmark.plugins.registry import default_registry
    from benchmark.publishing.board_checks import check_board, older_schemas
    from benchmark.publishing.reproduce import reproduce

    registry = default_registry(plugin or [])
    paths = [path for name in files for path in (sorted(name.glob("*.csv")) if name.is_dir() else [name])]
    if not paths:
        raise UserError(
            f"no .csv file in {', '.join(map(str, files))}", hint="e.g. bench verify results/leaderboard"
        )
    if again and seed is None:
        seed = secrets.randbelow(10**6)
        typer.echo(f"rows drawn by --seed {seed}")
    options = {"data": data, "device": device, "trust": trust or []}
    faulty = False
    for path in paths:
        problems = check_board(path, registry)
        older = [] if problems else older_schemas(path)
        note = f" (keys of schema {', '.join(map(str, older))})" if older else ""
        typer.echo(f"{'BAD ' if problems else 'ok  '} {path}{note}")
        for problem in problems:
            typer.echo(f"     {problem}")
        faulty = faulty or bool(problems)
        if again and not problems:
            for row in reproduce(path, again, seed or 0, store=store, plugins=plugin or [], **options):
                typer.echo(f"     {row}")
                faulty = faulty or row.verdict == "OTHER"
    if faulty:
        raise typer.Exit(1)
