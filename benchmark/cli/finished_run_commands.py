"""Commands for a finished run: `bench tables`, `report`, `compare`, `judge` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import Data, Plugins, StoreUrl, Trust, parse_pairs
from benchmark.cli.wording import count_of

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
CellKey = Annotated[
    str, typer.Option("--cell", help="The key of the cell in records.csv, or its first characters.")
]


def tables(
    run: RunFolder,
    form: Annotated[str, typer.Option("--format", help="markdown, latex or csv.")] = "markdown",
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            help="errors, eps, threats, clean, success, distance or fidelity; repeatable (default: all).",
        ),
    ] = None,
    intervals: Annotated[
        bool | None,
        typer.Option(help="Print 95 % intervals with the rates (default: in latex; csv always has them)."),
    ] = None,
) -> None:
    """Print the tables of a run, laid out as in papers."""
    from benchmark.report.table_data import KINDS
    from benchmark.report.tables import read_tables

    typer.echo(read_tables(run, form, table or tuple(KINDS), intervals), nl=False)


def report(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write (default: RUN/report.html).")
    ] = None,
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Write a run as one HTML page that needs no network. Its images come from the store."""
    from benchmark.cli.report_images import images_of
    from benchmark.report import write_report

    images = images_of(run, data=data, store=store, plugins=plugin or [], trust=trust or [])
    typer.echo(f"  {write_report(run, images, out or run / 'report.html')}")
    if images.left_out:
        typer.echo(f"left out: {images.left_out}", err=True)


def compare(
    run: RunFolder,
    paper: Annotated[str, typer.Option("--paper", help="The paper to compare with, e.g. ape-gan.")],
    counts_as: Annotated[
        list[str] | None,
        typer.Option(
            "--counts-as",
            help="OURS=THEIRS: the data set OURS of the run has the images of THEIRS in the paper.",
        ),
    ] = None,
) -> None:
    """Print the published results of a paper beside those of a run, as Markdown."""
    from benchmark.report.paper_comparison import compare as compare_with_paper
    from benchmark.report.paper_comparison import comparison
    from benchmark.results.reading import read_records

    copies = parse_pairs(counts_as or [], "--counts-as", "OURS=THEIRS")
    typer.echo(comparison(compare_with_paper(read_records(run), paper, copies), paper), nl=False)


def judge(
    run: RunFolder,
    cell: CellKey,
    images: Annotated[
        Path, typer.Option("--images", help="A safetensors file with the tensor `images`, (n, C, H, W).")
    ],
    origin: Annotated[
        str, typer.Option("--origin", help="Where the images come from, e.g. the attack; stored with them.")
    ],
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Add external adversarial images to a run: clip, measure and judge them, and rank again."""
    from benchmark.execution.observer import Silent
    from benchmark.finished_runs import judge_external_images, reload_run
    from benchmark.report import write_report
    from benchmark.report.images import StoredImages

    observer = Silent()
    planned = reload_run(run, observer, data=data, store=store, plugins=plugin or [], trust=trust or [])
    record, outside_ball = judge_external_images(planned, observer, run, cell, images, origin)
    write_report(run, StoredImages(planned.context, planned.plan.cells), run / "report.html")
    if outside_ball:
        typer.echo(f"{count_of(outside_ball, 'image')} outside the ball; not counted")
    if record["status"] != "ok":
        typer.echo(f"the cell has no error: {record['status']}, {record['reason']}")
    else:
        typer.echo(f"error of the cell: {record['error']:.4f}; by route: {record['routes']}")


def export(
    run: RunFolder,
    cell: CellKey,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images and the script.")],
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Export a cell for other attack tools: its clean images, and a script that builds its pipeline."""
    from benchmark.execution.observer import Silent
    from benchmark.finished_runs import reload_run
    from benchmark.plugins.trust import quoted
    from benchmark.results.external_images import export as export_images
    from benchmark.results.external_images import find_cell, write_export

    planned = reload_run(run, Silent(), data=data, store=store, plugins=plugin or [], trust=trust or [])
    exported_cell = find_cell(planned.plan, cell)
    arguments = {
        "run": str(run.resolve()),
        "cell": exported_cell.key,
        "data": None if data is None else str(data.resolve()),
        "store": store if store is None or "://" in store else str(Path(store).resolve()),
        "plugins": [str(path.resolve()) for path in plugin or []],
        "trust": [str(Path(name).resolve()) if Path(name).is_file() else name for name in trust or []],
    }
    write_export(export_images(planned.context, exported_cell), exported_cell, out, arguments)
    typer.echo(
        f"wrote {out / 'images.safetensors'} and {out / 'pipeline.py'}; to judge your adversarial images:"
    )
    options = [f" --plugin {quoted(path)}" for path in plugin or []]
    options += [f" --trust {quoted(name)}" for name in trust or []]
    options += [f" --store {quoted(store)}"] if store else []
    command = f"bench judge {quoted(run)} --cell {exported_cell.key[:12]} --images FILE --origin TEXT"
    typer.echo(f"  {command}{''.join(options)}")
