"""Zoos as read-only layers of the store: shipped with the package, in a checkout, and at `BENCH_ZOO`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.checkout import checkout
from benchmark.errors import UserError, nearest
from benchmark.storage.store import Address, Store, default_store
from benchmark.storage.zoo_index import INDEX, ZooIndex, ZooRecord, read_index, read_tensors
from benchmark.storage.zoo_sources import Folder

SHIPPED = Path(__file__).parents[1] / "zoo" / "weights"
"""The weights that are shipped with the package."""

_MAX_TRAININGS = 10_000  # more trainings of a plugin than any store has

Warn = Callable[[str], None]

_remote: dict[str, ZooIndex] = {}
"""Indices read from URLs, cached for the process."""


def _ignore(message: str) -> None:
    """Discard a warning."""


class ZooLayer:
    """The trainings of one zoo, each checked when it is read; damaged ones count as missing.

    `warn` receives a message for each training, or zoo, that cannot be used.
    """

    def __init__(self, name: str, folder: Folder, warn: Warn = _ignore) -> None:
        self.name = name
        self.title = folder.title
        self.folder = folder
        self._warn = warn

    def records(self) -> Iterator[ZooRecord]:
        """The trainings with weights in this zoo."""
        return iter(list(self._records.values()))

    def records_of(self, kind: str, label: str) -> Iterator[ZooRecord]:
        """The trainings of one kind of one plugin."""
        return (record for record in self.records() if (record.kind, record.label) == (kind, label))

    def read(self, record: ZooRecord) -> dict[str, Any]:
        """The weights of a training; a `UserError` names the file if they are damaged."""
        return read_tensors(self.folder, record)

    def has(self, address: Address) -> bool:
        """Whether this zoo has the weights for an address."""
        return address in self._records

    def has_any(self, kind: str, label: str) -> bool:
        """Whether this zoo has weights of a kind for a plugin."""
        return any(address.kind == kind and address.label == label for address in self._records)

    def meta(self, address: Address) -> dict[str, Any] | None:
        """The metadata of an entry; None if this zoo lacks it."""
        record = self._records.get(address)
        return None if record is None else record.meta()

    def tensors(self, address: Address) -> dict[str, Any] | None:
        """The weights of an entry; None if they are missing or damaged."""
        record = self._records.get(address)
        if record is None:
            return None
        try:
            return read_tensors(self.folder, record)
        except UserError as error:
            del self._records[address]
            self._warn(f"{error}; this training of the zoo is not used")
            return None

    @cached_property
    def _records(self) -> dict[Address, ZooRecord]:
        try:
            index = _remote.get(self.folder.url) or read_index(self.folder)
        except UserError as error:
            self._warn(f"{error}; this zoo is not used")
            return {}
        if not self.folder.local:
            _remote[self.folder.url] = index
        return {record.address: record for record in index.trainings if self._is_complete(record)}

    def _is_complete(self, record: ZooRecord) -> bool:
        """Whether the files exist with the right total size; they are not read."""
        if not record.files:
            return False  # listed without weights
        if not self.folder.local:
            return True
        sizes = [self.folder.size(name) for name in record.files]
        complete = None not in sizes and sum(size or 0 for size in sizes) == record.bytes
        if not complete:
            self._warn(f"{self.title}: the files of {record} are incomplete; this training is not used")
        return complete


class StoreLayer:
    """The trainings of a zoo that were imported or fetched into the store."""

    name = "store"
    title = "in the store"

    def __init__(self, warn: Warn = _ignore) -> None:
        url = default_store()
        exists = "://" in url or Path(url).expanduser().is_dir()  # reading must not create a store
        self._store = Store(url, warn) if exists else None

    def records_of(self, kind: str, label: str) -> Iterator[ZooRecord]:
        """The trainings of one kind of one plugin."""
        entries = () if self._store is None else self._store.samples(kind, label, limit=_MAX_TRAININGS)
        for meta in entries:
            if "zoo" in meta:
                yield ZooRecord.model_validate_json(json.dumps(meta["zoo"]))

    def read(self, record: ZooRecord) -> dict[str, Any]:
        """The weights of a training; a `UserError` if they are damaged."""
        tensors = None if self._store is None else self._store.get_tensors(record.address)
        if tensors is None:
            raise UserError(f"{record} is damaged in the store")
        return tensors


def default_layers(warn: Warn = _ignore) -> list[ZooLayer]:
    """The layers in search order: package, checkout, `BENCH_ZOO`."""
    layers = [ZooLayer("package", Folder(str(SHIPPED), "shipped with the package"), warn)]
    root = checkout()
    if root is not None and (own := Path(root, "results", "zoo")).joinpath(INDEX).is_file():
        layers.append(ZooLayer("checkout", Folder(str(own), "in results/zoo"), warn))
    if url := os.environ.get("BENCH_ZOO"):
        layers.append(ZooLayer("BENCH_ZOO", Folder(url, f"at {url}"), warn))
    return layers


def find_layers(name: str | None, warn: Warn = _ignore) -> Sequence[ZooLayer]:
    """The layer of that name, or the zoo in a folder or at a URL; without a name all layers."""
    layers = default_layers(warn)
    if name is None:
        return layers
    if named := [layer for layer in layers if layer.name == name]:
        return named
    if "://" in name or (Path(name) / INDEX).is_file():
        return [ZooLayer(name, Folder(name), warn)]
    hint = nearest(name, [layer.name for layer in layers])
    raise UserError(f"no zoo {name!r}: neither a layer nor a folder with an {INDEX}", hint=hint)
