"""`bench doctor`: what this machine has, and what stands in the way of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.errors import UserError
from benchmark.provenance import versions
from benchmark.registry import KINDS, Registry
from benchmark.store import Store
from benchmark.zoo_layers import default_layers


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is False for what will stop a run."""

    ok: bool
    subject: str
    detail: str


def examine(registry: Registry, data: Path, store: str) -> Iterator[Finding]:
    """Look at libraries, device, store, data sets and plugins. Downloads and trains nothing."""
    for library, version in versions().items():
        yield Finding(version is not None, library, version or "not installed")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    yield Finding(
        True, "device", f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads; {cuda}"
    )
    yield _store(store)
    yield from _zoo()
    for kind in KINDS:
        yield from _plugins(registry, kind)
    yield Finding(True, "data", f"{data} ({'there' if data.is_dir() else 'not there yet'})")


def _store(url: str) -> Finding:
    try:
        Store(url)
    except UserError as error:
        return Finding(False, "store", str(error))
    folder = Path(url).expanduser()
    if not folder.is_dir():
        return Finding(True, "store", url)
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    return Finding(True, "store", f"{url}: {used / 1e6:.0f} MB used, {free / 1e9:.0f} GB free")


def _zoo() -> Iterator[Finding]:
    """The layers below the store. One that cannot be read stops no run."""
    warnings: list[str] = []
    for layer in default_layers(warnings.append):
        yield Finding(True, "zoo", f"{len(list(layer.records()))} trainings {layer.title}")
    yield from (Finding(True, "zoo", warning) for warning in warnings)


def _plugins(registry: Registry, kind: str) -> Iterator[Finding]:
    for entry in registry.entries(kind):
        try:
            entry.load()
        except Exception as error:  # a broken plugin is the finding
            yield Finding(False, f"{kind} {entry.name}", f"cannot be imported: {error}")
    yield Finding(True, f"{kind}s", ", ".join(registry.names(kind)))
