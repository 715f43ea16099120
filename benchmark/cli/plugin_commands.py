"""`bench list`, `show`, `doctor`, `check` and `new`: plugins, and whether they work here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import Data, Device, Plugins, StoreUrl
from benchmark.findings import Finding


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the findings of a check, and exit with status 1 if one of them is a fault."""
    faulty = False
    for finding in findings:
        typer.echo(finding)
        faulty = faulty or finding.ok is False
    if faulty:
        raise typer.Exit(1)


def list_plugins(
    kind: Annotated[
        str | None,
        typer.Argument(help="datasets, targets, defenses, attacks, threats or grids (default: all)."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """List plugins, threats and built-in grids, by kind."""
    from benchmark.cli.catalogue import catalogue

    for title, lines in catalogue(kind, plugin or []):
        typer.echo(title)
        for line in lines:
            typer.echo(f"  {line}")


def show(
    name: Annotated[str, typer.Argument(help="The name of a plugin, a threat or a built-in grid.")],
    plugin: Plugins = None,
) -> None:
    """Describe a plugin, a threat or a built-in grid: its purpose, its parameters and its file."""
    from benchmark.cli.catalogue import show as show_text

    typer.echo(show_text(name, plugin or []))


def doctor(data: Data = None, store: StoreUrl = None, plugin: Plugins = None) -> None:
    """Check libraries, device, store, zoo and plugins of this machine; status 1 if a run cannot work."""
    from benchmark.cli.doctor import examine
    from benchmark.plugins.registry import default_registry
    from benchmark.storage.store import default_data, default_store

    registry = default_registry(plugin or [])
    print_findings(examine(registry, data or default_data(), store or default_store()))


def check(
    name: Annotated[str, typer.Argument(help="The name of a defense.")],
    plugin: Plugins = None,
    device: Device = "auto",
) -> None:
    """Run a defense on a few images and check that it follows the rules for plugins; status 1 if not."""
    from benchmark.execution.devices import pick_device
    from benchmark.testing.conformance import check_defense, find_defense

    defense = find_defense(name, plugin or [])
    print_findings(check_defense(defense, device=pick_device(device)))


def new(
    kind: Annotated[str, typer.Argument(help="The kind of plugin: defense.")],
    name: Annotated[
        str, typer.Argument(help="The name of the plugin: lower-case letters, digits and hyphens.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the two files.")] = Path(),
) -> None:
    """Write a small working plugin to start from, with its test."""
    from benchmark.cli.scaffold import write_plugin

    plugin, test = write_plugin(kind, name, out)
    typer.echo(f"wrote {plugin} and {test}; next:")
    typer.echo(f"  bench check {name} --plugin {plugin}")
    typer.echo(f"  pytest {test}")
