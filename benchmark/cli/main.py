"""The command `bench`: the order of its commands, its exit statuses, and `bench run`.

Commands import what they need when they run, so that `bench --help` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from benchmark.cli.finished_run_commands import compare, export, judge, report, tables
from benchmark.cli.options import Data, Device, Plugins, StoreUrl, Trust, column_values
from benchmark.cli.plugin_commands import check, doctor, list_plugins, new, show
from benchmark.cli.publishing_commands import publish, verify
from benchmark.cli.zoo_commands import zoo_app
from benchmark.errors import UserError

app = typer.Typer(
    help="Measure whether a purifier in front of an image classifier protects it from adversarial attacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Grid = Annotated[str, typer.Option("--grid", help="A grid file, or the name of a built-in grid.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for the files of the run (default: results/runs/NAME).")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Run only cells with COLUMN=VALUE, e.g. defense=ape-gan; may be repeated."),
]
Sanity = Annotated[
    str,
    typer.Option("--sanity", help="Checks of each defense: fast, or full (adds checks as slow as attacks)."),
]
Reuse = Annotated[
    str,
    typer.Option(
        "--reuse",
        help="Stored results to use: any; same-code: made by the present code; same-environment: also with "
        "the same libraries, threads, processor and kind of device.",
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", min=1, help="Number of CPU threads; another number rounds differently.")
]
Zoo = Annotated[
    bool, typer.Option("--zoo/--no-zoo", help="Use trained weights from the zoo, or train everything here.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the work and the expected time, and stop.")]


def main() -> None:
    """Run `bench`. Exit status 1: cells failed or a check found a fault; 2: wrong input; 130: interrupted."""
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(2)


def run(
    grid: Grid,
    out: Out = None,
    data: Data = None,
    store: StoreUrl = None,
    device: Device = "auto",
    only: Only = None,
    plugin: Plugins = None,
    sanity: Sanity = "fast",
    trust: Trust = None,
    reuse: Reuse = "any",
    threads: Threads = 1,
    zoo: Zoo = True,
    dry_run: DryRun = False,
) -> None:
    """Run a grid: train, attack, purify, score, write tables. Repeat the command to continue a run."""
    from rich.console import Console

    from benchmark.cli.progress import display_for
    from benchmark.cli.summary import dry_run_summary, failure_summary, run_summary
    from benchmark.report import write_report
    from benchmark.report.images import StoredImages
    from benchmark.runs import execute_run, plan_run

    observer = display_for(Console())
    planned = plan_run(
        grid,
        observer,
        data=data,
        store=store,
        device=device,
        plugins=plugin or [],
        only=column_values(only or []),
        sanity=_one_of("--sanity", sanity, ("fast", "full")),
        trust=trust or [],
        plan_only=dry_run,
        reuse=_one_of("--reuse", reuse, ("any", "same-code", "same-environment")),
        threads=threads,
        zoo=zoo,
    )
    if dry_run:
        typer.echo("\n".join(dry_run_summary(planned)))
        return
    try:
        completed = execute_run(planned, observer, out or Path("results/runs") / planned.grid.name)
    except KeyboardInterrupt:
        observer.end()
        typer.echo("interrupted: finished work is stored; repeat the command to continue the run", err=True)
        raise typer.Exit(130) from None
    images = StoredImages(planned.context, planned.plan.cells)
    page = write_report(completed.out, images, completed.out / "report.html")
    typer.echo("\n".join(run_summary(completed, page)))
    if completed.failed:
        typer.echo("\n".join(failure_summary(completed)), err=True)
        raise typer.Exit(1)


def _one_of(option: str, text: str, known: Sequence[str]) -> Any:
    if text not in known:
        raise UserError(f"{option} is {', '.join(known[:-1])} or {known[-1]}, got {text!r}")
    return text


# `bench --help` lists the commands in this order
app.command()(run)
app.command("list")(list_plugins)
_others = (show, tables, report, compare, doctor, check, judge, export, publish, verify, new)
for _command in cast(tuple[Callable[..., None], ...], _others):
    app.command()(_command)
app.add_typer(zoo_app, name="zoo")
