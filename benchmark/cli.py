"""The command line. Imports what a command needs when it runs: `bench --help` is instant."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.errors import UserError
from benchmark.options import Data, Device, Plugins, StoreUrl, Trust
from benchmark.zoo_cli import zoo_app

app = typer.Typer(
    help="Measure whether a purifier in front of an image classifier protects it from adversarial attacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(zoo_app, name="zoo")


def main() -> None:
    """The `bench` command: status 0 all ok, 1 some cells failed, 2 the user's mistake, 130 interrupted."""
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(2)


@app.command()
def run(
    grid: Annotated[str, typer.Option("--grid", help="A grid file, or the name of a built-in grid.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the files of the run [default: results/runs/NAME]."),
    ] = None,
    data: Data = None,
    store: StoreUrl = None,
    device: Device = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Keep cells whose COLUMN=VALUE, e.g. defense=ape-gan; may be repeated."),
    ] = None,
    plugin: Plugins = None,
    sanity: Annotated[
        str, typer.Option("--sanity", help="fast, or full: with the checks that take as long as attacks.")
    ] = "fast",
    trust: Trust = None,
    reuse: Annotated[
        str,
        typer.Option(
            "--reuse", help="Which stored results to take: any, same-code or same-environment as now."
        ),
    ] = "any",
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads of the CPU; another number rounds otherwise.")
    ] = 1,
    zoo: Annotated[
        bool, typer.Option("--zoo/--no-zoo", help="Take trainings from the zoo, or train all of them here.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and stop.")] = False,
) -> None:
    """Run a grid: train what is missing, attack, purify, score, write tables. Run again to go on."""
    from rich.console import Console

    from benchmark.display import display_for
    from benchmark.report import write_report
    from benchmark.report.images import StoredImages
    from benchmark.runs import prepare, run_prepared
    from benchmark.summary import announcement, complaints, conclusion

    console = Console()
    observer = display_for(console)
    prepared = prepare(
        grid,
        observer,
        data=data,
        store=store,
        device=device,
        plugins=plugin or [],
        only=column_values(only or []),
        sanity=_sanity(sanity),
        trust=trust or [],
        look=dry_run,
        reuse=_reuse(reuse),
        threads=threads,
        zoo=zoo,
    )
    if dry_run:
        for line in announcement(prepared):
            typer.echo(line)
        return
    try:
        finished = run_prepared(prepared, observer, out or Path("results/runs") / prepared.grid.name)
    except KeyboardInterrupt:
        observer.end()
        typer.echo("interrupted: what is done is kept; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    report = write_report(finished.out, StoredImages(prepared), finished.out / "report.html")
    for line in conclusion(finished, report):
        typer.echo(line)
    for line in complaints(finished):
        typer.echo(line, err=True)
    if finished.failed:
        raise typer.Exit(1)


@app.command(name="list")
def list_plugins(
    kind: Annotated[
        str | None, typer.Argument(help="datasets, targets, defenses, attacks, threats, grids")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """List what there is, by kind."""
    from benchmark.catalogue import catalogue

    for title, lines in catalogue(kind, plugin or []):
        typer.echo(title)
        for line in lines:
            typer.echo(f"  {line}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The name of a plugin, a threat or a built-in grid.")],
    plugin: Plugins = None,
) -> None:
    """Show what something is, its parameters and where it comes from."""
    from benchmark.catalogue import explain

    typer.echo(explain(name, plugin or []))


@app.command()
def tables(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    form: Annotated[str, typer.Option("--format", help="markdown, latex or csv.")] = "markdown",
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            help="errors, eps, threats, clean, success, distance or fidelity; repeatable [default: all].",
        ),
    ] = None,
    intervals: Annotated[
        bool | None,
        typer.Option(help="Whether rates carry 95 % intervals [default: in latex; csv always has them]."),
    ] = None,
) -> None:
    """Print the tables of a run, as papers have them."""
    from benchmark.figures import KINDS
    from benchmark.runs import read_tables

    typer.echo(read_tables(run, form, table or tuple(KINDS), intervals), nl=False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write [default: RUN/report.html].")
    ] = None,
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Write a run as one page that opens in any browser, offline. Its images come from the store."""
    from benchmark.report import write_report
    from benchmark.report.images import images_of

    images = images_of(run, data=data, store=store, plugins=plugin or [], trust=trust or [])
    typer.echo(f"  {write_report(run, images, out or run / 'report.html')}")
    if images.left_out:
        typer.echo(f"left out: {images.left_out}", err=True)


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    paper: Annotated[str, typer.Option("--paper", help="Whose figures, e.g. ape-gan.")],
    counts_as: Annotated[
        list[str] | None,
        typer.Option("--counts-as", help="OURS=THEIRS: a data set of the run and the one it is a copy of."),
    ] = None,
) -> None:
    """Print a paper's published figures beside those of a run, as Markdown."""
    from benchmark.compare import compare as compared
    from benchmark.compare import comparison
    from benchmark.runs import read_records

    copies = _pairs(counts_as or [], "--counts-as", "OURS=THEIRS")
    typer.echo(comparison(compared(read_records(run), paper, copies), paper), nl=False)


@app.command()
def doctor(data: Data = None, store: StoreUrl = None, plugin: Plugins = None) -> None:
    """Say what this machine has, and what stands in the way of a run."""
    from benchmark.doctor import examine
    from benchmark.registry import default_registry
    from benchmark.runs import default_data
    from benchmark.store import default_store

    findings = list(examine(default_registry(plugin or []), data or default_data(), store or default_store()))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'BAD '} {finding.subject}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="The name of a defense.")],
    plugin: Plugins = None,
    device: Device = "auto",
) -> None:
    """Run a defense on a few images and say whether it keeps its contract; status 1 if it does not."""
    from benchmark.conformance import check_defense, find_defense
    from benchmark.runs import pick_device

    marks = {True: "ok  ", False: "BAD ", None: "skip"}
    bad = False
    for finding in check_defense(find_defense(name, plugin or []), device=pick_device(device)):
        typer.echo(f"{marks[finding.ok]} {finding.subject}: {finding.detail}")
        bad = bad or finding.ok is False
    if bad:
        raise typer.Exit(1)


@app.command()
def judge(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    cell: Annotated[str, typer.Option("--cell", help="The key of the cell, or how it begins.")],
    images: Annotated[Path, typer.Option("--images", help="A safetensors file with `images` (n, C, H, W).")],
    origin: Annotated[str, typer.Option("--origin", help="Where they come from, for the records.")],
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Count adversarial images made elsewhere: clip, measure and judge them, and rank the run anew."""
    from benchmark.display import Silent
    from benchmark.judging import judge
    from benchmark.report import write_report
    from benchmark.report.images import StoredImages
    from benchmark.rerun import run_again

    observer = Silent()
    prepared = run_again(run, observer, data=data, store=store, plugins=plugin or [], trust=trust or [])
    judged = judge(prepared, observer, run, cell, images, origin)
    write_report(run, StoredImages(prepared), run / "report.html")
    if judged.left:
        typer.echo(f"{judged.left} images left the ball, and do not count")
    row = judged.row
    if row["status"] != "ok":
        typer.echo(f"the cell has no error: {row['status']}, {row['reason']}")
    else:
        typer.echo(f"error of the cell: {row['error']:.4f}; by route: {row['routes']}")


@app.command(name="export")
def export_cell(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    cell: Annotated[str, typer.Option("--cell", help="The key of the cell, or how it begins.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the images and the script.")],
    data: Data = None,
    store: StoreUrl = None,
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Write a cell for attacks from outside: its clean images, and a script that makes its pipeline."""
    from benchmark.display import Silent
    from benchmark.outside import export, find_cell, write_export
    from benchmark.rerun import run_again
    from benchmark.trust import quoted

    prepared = run_again(run, Silent(), data=data, store=store, plugins=plugin or [], trust=trust or [])
    chosen = find_cell(prepared.plan, cell)
    how = {
        "run": str(run.resolve()),
        "cell": chosen.key,
        "data": None if data is None else str(data.resolve()),
        "store": store if store is None or "://" in store else str(Path(store).resolve()),
        "plugins": [str(path.resolve()) for path in plugin or []],
        "trust": [str(Path(name).resolve()) if Path(name).is_file() else name for name in trust or []],
    }
    write_export(export(prepared.workshop, chosen), chosen, out, how)
    typer.echo(f"wrote {out / 'images.safetensors'} and {out / 'pipeline.py'}; hand back what you find with")
    options = [f" --plugin {quoted(path)}" for path in plugin or []]
    options += [f" --trust {quoted(name)}" for name in trust or []]
    options += [f" --store {quoted(store)}"] if store else []
    typer.echo(
        f"  bench judge {quoted(run)} --cell {chosen.key[:12]} --images FILE --origin TEXT{''.join(options)}"
    )


Board = Annotated[Path, typer.Option("--board", help="The folder of the published leaderboard.")]


@app.command()
def publish(
    run: Annotated[Path | None, typer.Argument(help="The folder of a run.")] = None,
    explain: Annotated[
        list[str] | None,
        typer.Option("--explain", help="FLAG=TEXT: why a doubt may stand; may be repeated."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write; without it, only show.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last publication back.")] = False,
    board: Board = Path("results/leaderboard"),
    plugin: Plugins = None,
) -> None:
    """Put the leaderboard of a run among the published ones, or say all that speaks against it."""
    from benchmark.publishing import publish as publishing
    from benchmark.publishing.boards import file_name, read_board
    from benchmark.publishing.entries import entries, remarks
    from benchmark.publishing.run import Run
    from benchmark.registry import default_registry

    texts = _pairs(explain or [], "--explain", "FLAG=TEXT")
    if undo == (run is not None) or (undo and (texts or plugin)):
        raise UserError("name the folder of a run, or --undo alone", hint="bench publish results/runs/NAME")
    lines: Iterable[str]
    if run is None:
        lines = publishing.undo(board) if apply else publishing.told(board, publishing.last(board))
    else:
        registry, made = default_registry(), Run(run)
        rows = entries(made, texts, plugin or [], registry)
        files = {file_name(row) for row in rows}
        lines = list(remarks(rows, [row for file in files for row in read_board(board / file)]))
        if apply:
            lines += publishing.publish(board, made, rows, plugin or [], registry)
        else:
            lines += publishing.told(board, publishing.changes_of(board, made, rows, registry))
    for line in lines:
        typer.echo(line)
    typer.echo(f"written to {board}" if apply else "nothing is written yet: --apply does that")


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(help="Published files, or the folder of them.")],
    again: Annotated[
        int, typer.Option("--reproduce", help="How many random rows of each file to compute again.", min=0)
    ] = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Decides which rows [default: drawn, and printed].")
    ] = None,
    data: Data = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store", help="Where to take results from [default: none, only trainings from the zoo]."
        ),
    ] = None,
    device: Device = "auto",
    plugin: Plugins = None,
    trust: Trust = None,
) -> None:
    """Check published files: columns, keys, ranks, doubts; status 1 where something does not hold."""
    from benchmark.publishing.reproduce import reproduce
    from benchmark.publishing.verify import older_schemas
    from benchmark.publishing.verify import verify as verified
    from benchmark.registry import default_registry

    registry = default_registry(plugin or [])
    paths = [path for given in files for path in (sorted(given.glob("*.csv")) if given.is_dir() else [given])]
    if not paths:
        raise UserError(f"no CSV in {', '.join(map(str, files))}")
    if again and seed is None:
        seed = secrets.randbelow(10**6)
        typer.echo(f"rows drawn by --seed {seed}")
    bad = False
    for path in paths:
        problems = verified(path, registry)
        bad = bad or bool(problems)
        older = [] if problems else older_schemas(path)
        note = f" (keys of schema {', '.join(map(str, older))})" if older else ""
        typer.echo(f"{'BAD ' if problems else 'ok  '} {path}{note}")
        for problem in problems:
            typer.echo(f"     {problem}")
        if again and not problems:
            for row in reproduce(
                path,
                again,
                seed or 0,
                data=data,
                store=store,
                device=device,
                plugins=plugin or [],
                trust=trust or [],
            ):
                typer.echo(f"     {row}")
                bad = bad or row.verdict == "OTHER"
    if bad:
        raise typer.Exit(1)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="What to write: defense.")],
    name: Annotated[str, typer.Argument(help="Its name, in small letters, digits and hyphens.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the two files.")] = Path(),
) -> None:
    """Write a small working plugin to start from, with its test."""
    from benchmark.scaffold import write_new

    plugin, test = write_new(kind, name, out)
    typer.echo(f"wrote {plugin} and {test}; next:")
    typer.echo(f"  bench check {name} --plugin {plugin}")
    typer.echo(f"  pytest {test}")


def _sanity(text: str) -> Literal["fast", "full"]:
    if text not in ("fast", "full"):
        raise UserError(f"--sanity is fast or full, got {text!r}")
    return "full" if text == "full" else "fast"


def _reuse(text: str) -> Literal["any", "same-code", "same-environment"]:
    match text:
        case "any" | "same-code" | "same-environment":
            return text
    raise UserError(f"--reuse is any, same-code or same-environment, got {text!r}")


def _pairs(texts: list[str], option: str, form: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option} takes {form}, got {text!r}")
        pairs[name] = value
    return pairs


def column_values(only: list[str]) -> dict[str, set[str]]:
    """What `--only` keeps of each column.

    Raises:
        UserError: Something is not of the form COLUMN=VALUE.
    """
    pairs: dict[str, set[str]] = {}
    for text in only:
        column, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--only takes COLUMN=VALUE, got {text!r}", hint="e.g. --only defense=ape-gan")
        pairs.setdefault(column, set()).add(value)
    return pairs
