"""`bench doctor`: checks libraries, device, store, zoo and plugins of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmark.cli.wording import count_of
from benchmark.errors import UserError
from benchmark.findings import Finding
from benchmark.plugins.registry import KINDS, Registry
from benchmark.storage.environment import versions
from benchmark.storage.store import Store
from benchmark.storage.zoo_layers import default_layers


def examine(registry: Registry, data: Path, store: str) -> Iterator[Finding]:
    """Check libraries, device, store, zoo, plugins and the data folder. Nothing is downloaded or trained."""
    for library, version in versions().items():
        yield Finding(version is not None, library, version or "not installed")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    cores = (
        f"{count_of(os.cpu_count() or 1, 'CPU core')}, {count_of(torch.get_num_threads(), 'torch thread')}"
    )
    yield Finding(True, "device", f"{cores}; {cuda}")
    yield _store(store)
    warnings: list[str] = []  # a run also works without a layer that cannot be read
    for layer in default_layers(warnings.append):
        yield Finding(True, "zoo", f"{count_of(len(list(layer.records())), 'training')} {layer.title}")
    yield from (Finding(True, "zoo", warning) for warning in warnings)
    for kind in KINDS:
        for entry in registry.entries(kind):
            try:
                entry.load()
            except Exception as error:  # a plugin file may raise anything
                yield Finding(False, f"{kind} {entry.name}", f"cannot be imported: {error}")
        yield Finding(True, f"{kind}s", ", ".join(registry.names(kind)))
    yield Finding(True, "data", f"{data} ({'exists' if data.is_dir() else 'does not exist yet'})")


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
