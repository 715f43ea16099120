"""The command `bench`: the order of its commands and its exit statuses.

Commands import what they need when they run, so that `bench --help` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import cast

import typer

from benchmark.cli.finished_run_commands import compare, export, judge, report, tables
from benchmark.cli.plugin_commands import check, doctor, list_plugins, new, show
from benchmark.cli.publishing_commands import publish, verify
from benchmark.cli.run_command import run
from benchmark.cli.zoo_commands import zoo_app
from benchmark.errors import UserError

app = typer.Typer(
    help="Measure whether a purifier in front of an image classifier protects it from adversarial attacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run `bench`.

    Exit status 1: cells failed or a check found a fault; 2: wrong input; 3: the time of a run is over;
    130: interrupted.
    """
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(2)


# `bench --help` lists the commands in this order
app.command()(run)
app.command("list")(list_plugins)
_others = (show, tables, report, compare, doctor, check, judge, export, publish, verify, new)
for _command in cast(tuple[Callable[..., None], ...], _others):
    app.command()(_command)
app.add_typer(zoo_app, name="zoo")
