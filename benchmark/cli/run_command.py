"""`bench run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.options import Data, Device, Plugins, StoreUrl, Trust, column_values
from benchmark.errors import StoppedError, UserError

if TYPE_CHECKING:
    from benchmark.execution.executor import Limits
    from benchmark.runs import CompletedRun, PlannedRun

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
Workers = Annotated[
    str,
    typer.Option(
        "--workers", help="Worker processes: a number (1: this process only), or auto: one per core or GPU."
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", min=0, help="Stop after this time; repeat the command to continue the run."),
]
TaskMinutes = Annotated[
    float | None,
    typer.Option("--task-minutes", min=0, help="Stop a task after this time; its cells fail."),
]
Zoo = Annotated[
    bool, typer.Option("--zoo/--no-zoo", help="Use trained weights from the zoo, or train everything here.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the work and the expected time, and stop.")]


_SMALL_RUN = 20.0
"""Seconds of work in one process that are not worth the start of worker processes."""


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
    workers: Workers = "auto",
    max_hours: MaxHours = None,
    task_minutes: TaskMinutes = None,
    dry_run: DryRun = False,
) -> None:
    """Run a grid: train, attack, purify, score, write tables. Repeat the command to continue a run."""
    from rich.console import Console

    from benchmark.cli.progress import display_for
    from benchmark.cli.summary import dry_run_summary
    from benchmark.execution.devices import worker_count
    from benchmark.execution.resources import ResourceModel
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
    context = planned.context
    per_gpu = ResourceModel(context.registry, context.resources).per_gpu(planned.plan.tasks)
    count = worker_count(workers, context.device, threads, per_gpu)
    folder = out or Path("results/runs") / planned.grid.name
    with _stops():
        completed = execute_run(
            planned,
            observer,
            folder,
            workers=count,
            least_seconds=_SMALL_RUN if workers == "auto" else 0.0,
            limits=_limits(max_hours, task_minutes),
        )
    _report(planned, completed)


def _report(planned: PlannedRun, completed: CompletedRun) -> None:
    """Write the report of a run and print its summary; exit status 1 if cells failed."""
    from benchmark.cli.summary import failure_summary, run_summary
    from benchmark.report import write_report
    from benchmark.report.images import StoredImages

    page = completed.out / "report.html"
    if not (completed.unchanged and _is_newer(page, completed.out / "run.json")):
        page = write_report(completed.out, StoredImages(planned.context, planned.plan.cells), page)
    typer.echo("\n".join(run_summary(completed, page)))
    if completed.failed:
        typer.echo("\n".join(failure_summary(completed)), err=True)
        raise typer.Exit(1)


def _is_newer(file: Path, other: Path) -> bool:
    return file.is_file() and file.stat().st_mtime_ns >= other.stat().st_mtime_ns


@contextmanager
def _stops() -> Iterator[None]:
    """End the command if the user or `--max-hours` stops the run."""
    message, continued = "finished work is stored", "repeat the command to continue the run"
    try:
        yield
    except StoppedError:
        typer.echo(f"the time of --max-hours is over: {message}; {continued}", err=True)
        raise typer.Exit(3) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {message}; {continued}", err=True)
        raise typer.Exit(130) from None


def _limits(max_hours: float | None, task_minutes: float | None) -> Limits | None:
    from benchmark.execution.executor import Limits

    if max_hours is None and task_minutes is None:
        return None
    hours, minutes = (float("inf") if limit is None else limit for limit in (max_hours, task_minutes))
    return Limits(3600 * hours, 60 * minutes)


def _one_of(option: str, text: str, known: Sequence[str]) -> Any:
    if text not in known:
        raise UserError(f"{option} is {', '.join(known[:-1])} or {known[-1]}, got {text!r}")
    return text
