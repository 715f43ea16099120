"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file that declares plugins; may be repeated."),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Root folder of the data sets.", envvar="BENCH_DATA")
]
StoreUrl = Annotated[
    str | None, typer.Option("--store", help="Folder or URL that keeps results.", envvar="BENCH_STORE")
]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", help="A model file, Python file or package whose code may run; may be repeated."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, …")]
