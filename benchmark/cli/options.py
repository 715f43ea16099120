"""Command-line options that several commands share, and parsing of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmark.errors import UserError

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file with your own plugins; may be repeated.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder of the data sets (default: ~/.cache/bench/data).", envvar="BENCH_DATA"
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store", help="Folder or URL of stored results (default: ~/.cache/bench).", envvar="BENCH_STORE"
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", help="A model file, Python file or package whose code may run; may be repeated."),
]
Device = Annotated[
    str, typer.Option("--device", help="Where models run: auto (a GPU if there is one), cpu, cuda, cuda:1, …")
]


def parse_pairs(texts: Sequence[str], option: str, form: str) -> dict[str, str]:
    """Split the values of an option at their first equals sign, into a mapping.

    Neither part may be empty. The last value of a repeated name counts.
    """
    pairs = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value):
            raise UserError(f"{option} takes {form}, got {text!r}")
        pairs[name] = value
    return pairs


def column_values(texts: Sequence[str]) -> dict[str, set[str]]:
    """The values that `--only` keeps, by column.

    Raises:
        UserError: A value is not of the form COLUMN=VALUE.
    """
    values: dict[str, set[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--only takes COLUMN=VALUE, got {text!r}", hint="e.g. --only defense=ape-gan")
        values.setdefault(column, set()).add(value)
    return values
