"""`bench zoo`: list, copy, exchange and check trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import Data, Plugins, StoreUrl, Trust
from benchmark.cli.plugin_commands import print_findings
from benchmark.errors import UserError

zoo_app = typer.Typer(help="Trained weights: list, copy, exchange and check them.", no_args_is_help=True)

LayerName = Annotated[
    str | None,
    typer.Option(
        "--layer", help="One zoo only: package, checkout, BENCH_ZOO, a folder or a URL (default: all)."
    ),
]


@zoo_app.command(name="ls")
def list_zoo(layer: LayerName = None) -> None:
    """List the trainings with key, size and measurements."""
    from benchmark.storage.zoo_layers import find_layers

    for found in find_layers(layer, _warn):
        records = sorted(found.records(), key=lambda record: (record.dataset, record.kind, record.label))
        size = sum(record.bytes for record in records) / 1e6
        typer.echo(f"{found.name}: {len(records)} trainings {found.title}, {size:.2f} MB")
        for record in records:
            typer.echo(
                f"  {record.key[:12]}  {record.bytes / 1e6:7.2f} MB  {record.kind} {record.describe()}"
            )


@zoo_app.command()
def fetch(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys as `bench zoo ls` shows them.")] = None,
    grid: Annotated[
        str | None,
        typer.Option("--grid", help="A grid file or a built-in grid: fetch all trainings that it needs."),
    ] = None,
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
) -> None:
    """Copy trainings from the zoo into the store: by key, or all that a grid needs."""
    from benchmark.storage.store import Store, default_store
    from benchmark.storage.zoo_layers import default_layers
    from benchmark.zoo.import_weights import fetch as fetch_from
    from benchmark.zoo.import_weights import keys_for

    if bool(keys) == (grid is not None):
        raise UserError("name keys, or a grid with --grid", hint="`bench zoo ls` shows the keys")
    layers = default_layers(_warn)
    if grid is not None:
        keys = keys_for(grid, layers, data=data, store=store, plugins=plugin or [])
    for line in fetch_from(layers, Store(store or default_store(), _warn), keys or []):
        typer.echo(line)
    if not keys:
        typer.echo("the zoo has no training that this grid needs")


@zoo_app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    to: Annotated[
        Path, typer.Option("--to", help="A zoo folder to add to, or an archive to write (.tar or .zip).")
    ] = Path("results/zoo"),
    attacks: Annotated[
        bool,
        typer.Option("--attacks", help="Also export what attackers train: attacks, substitutes and copies."),
    ] = False,
    at_most: Annotated[
        float | None,
        typer.Option(
            "--at-most", help="Limit in MB; larger weights are listed in the index without their files."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace weights of the same training that the zoo already has.")
    ] = False,
    licence: Annotated[str, typer.Option("--licence", help="The licence of the weights.")] = "MIT",
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Write the trainings of a finished run into a zoo: targets, sources and defenses."""
    from benchmark.execution.observer import Silent
    from benchmark.finished_runs import reload_run
    from benchmark.results.reading import read_run_metadata
    from benchmark.zoo.export import collect, write_zoo

    planned = reload_run(run, Silent(), data=data, store=store, plugins=plugin or [], trust=trust or [])
    commit = (read_run_metadata(run).get("git") or {}).get("commit")
    offered = collect(planned, attacks=attacks, licence=licence, commit=commit)
    limit = None if at_most is None else int(at_most * 10**6)
    for line in write_zoo(to, offered, at_most=limit, replace=replace):
        typer.echo(line)
    typer.echo(f"written to {to}")


@zoo_app.command(name="import")
def import_from(
    place: Annotated[str, typer.Argument(help="An archive (.tar or .zip), a folder, or a URL of either.")],
    store: StoreUrl = None,
) -> None:
    """Check another zoo, then copy its trainings to the store; nothing is copied if there is a fault."""
    from benchmark.storage.store import default_store
    from benchmark.storage.zoo_sources import open_source
    from benchmark.zoo.import_weights import import_zoo

    for line in import_zoo(open_source(place), store or default_store()):
        typer.echo(line)


@zoo_app.command()
def verify(layer: LayerName = None, data: Data = None, plugin: Plugins = None) -> None:
    """Check files, checksums and measurements; status 1 if something is wrong."""
    from benchmark.plugins.registry import default_registry
    from benchmark.storage.store import default_data
    from benchmark.storage.zoo_layers import find_layers
    from benchmark.zoo.verify import verify_zoo

    registry, root = default_registry(plugin or []), data or default_data()
    print_findings(finding for found in find_layers(layer) for finding in verify_zoo(found, registry, root))


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)
