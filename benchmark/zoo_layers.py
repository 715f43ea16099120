"""The zoo as read-only layers below the store: shipped with the package, of a checkout, and `BENCH_ZOO`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, nearest
from benchmark.store import Address, Store, default_store
from benchmark.zoo_index import INDEX, Index, Record, read_index, read_tensors
from benchmark.zoo_sources import Folder

SHIPPED = Path(__file__).parent / "zoo"
"""The weights that come with the package."""

_PROJECT = Path(__file__).parent.parent

_MOST = 10_000
"""More trainings of a plugin than any store has."""

Warn = Callable[[str], None]

_remote: dict[str, Index] = {}
"""The indices that were read from URLs, each once per process."""


def _ignore(message: str) -> None:
    """For those who do not listen."""


class ZooLayer:
    """The trainings of one zoo, each checked when it is read. What is damaged counts as absent.

    Args:
        name: How the command line calls it.
        folder: Where it is.
        warn: Receives a sentence for everything that cannot be used.
    """

    def __init__(self, name: str, folder: Folder, warn: Warn = _ignore) -> None:
        self.name = name
        self.title = folder.title
        self.folder = folder
        self._warn = warn

    def records(self) -> Iterator[Record]:
        """The trainings whose weights are here."""
        return iter(list(self._records.values()))

    def records_of(self, kind: str, label: str) -> Iterator[Record]:
        """The trainings of one kind of one plugin."""
        return (record for record in self.records() if (record.kind, record.label) == (kind, label))

    def read(self, record: Record) -> dict[str, Any]:
        """The weights of a training.

        Raises:
            UserError: They are damaged; names the file.
        """
        return read_tensors(self.folder, record)

    def has(self, address: Address) -> bool:
        """Whether this zoo has the weights for an address."""
        return address in self._records

    def has_any(self, kind: str, label: str) -> bool:
        """Whether this zoo has weights of a kind for a plugin."""
        return any(address.kind == kind and address.label == label for address in self._records)

    def meta(self, address: Address) -> dict[str, Any] | None:
        """The metadata of an entry; None if it is not here."""
        record = self._records.get(address)
        return None if record is None else record.meta()

    def tensors(self, address: Address) -> dict[str, Any] | None:
        """The weights of an entry; None if they are not here or damaged."""
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
    def _records(self) -> dict[Address, Record]:
        try:
            index = self._index()
        except UserError as error:
            self._warn(f"{error}; this zoo is not used")
            return {}
        return {record.address: record for record in index.trainings if self._is_whole(record)}

    def _index(self) -> Index:
        if self.folder.local:
            return read_index(self.folder)
        if self.folder.url not in _remote:
            _remote[self.folder.url] = read_index(self.folder)
        return _remote[self.folder.url]

    def _is_whole(self, record: Record) -> bool:
        """Whether the files are here, as far as that can be seen without reading them."""
        if not record.files:
            return False  # listed with its recipe and figures; the weights are elsewhere
        if not self.folder.local:
            return True
        sizes = [self.folder.size(name) for name in record.files]
        whole = None not in sizes and sum(size or 0 for size in sizes) == record.bytes
        if not whole:
            self._warn(f"{self.title}: the files of {record} are not whole; this training is not used")
        return whole


class StoreLayer:
    """The trainings that were imported or fetched into the store, for loading them from Python."""

    name = "store"
    title = "in the store"

    def __init__(self, warn: Warn = _ignore) -> None:
        url = default_store()
        exists = "://" in url or Path(url).expanduser().is_dir()  # to look must not make a store
        self._store = Store(url, warn) if exists else None

    def records_of(self, kind: str, label: str) -> Iterator[Record]:
        """The trainings of one kind of one plugin."""
        if self._store is not None:
            for meta in self._store.samples(kind, label, limit=_MOST):
                if "zoo" in meta:
                    yield Record.model_validate_json(json.dumps(meta["zoo"]))

    def read(self, record: Record) -> dict[str, Any]:
        """The weights of a training.

        Raises:
            UserError: They are damaged.
        """
        tensors = None if self._store is None else self._store.get_tensors(record.address)
        if tensors is None:
            raise UserError(f"{record} is damaged in the store")
        return tensors


def default_layers(warn: Warn = _ignore) -> list[ZooLayer]:
    """The layers in the order in which they are asked: package, checkout, `BENCH_ZOO`."""
    layers = [ZooLayer("package", Folder(str(SHIPPED), "shipped with the package"), warn)]
    checkout = _PROJECT / "results" / "zoo"
    if (_PROJECT / "setup.cfg").is_file() and (checkout / INDEX).is_file():
        layers.append(ZooLayer("checkout", Folder(str(checkout), "in results/zoo"), warn))
    url = os.environ.get("BENCH_ZOO")
    if url:
        layers.append(ZooLayer("BENCH_ZOO", Folder(url, f"at {url}"), warn))
    return layers


def find_layers(name: str | None, warn: Warn = _ignore) -> Sequence[ZooLayer]:
    """The layer of that name, or the zoo in a folder or at a URL; all layers if no name is given.

    Raises:
        UserError: There is none.
    """
    layers = default_layers(warn)
    if name is None:
        return layers
    named = [layer for layer in layers if layer.name == name]
    if named:
        return named
    if "://" in name or (Path(name) / INDEX).is_file():
        return [ZooLayer(name, Folder(name), warn)]
    known = [layer.name for layer in layers]
    raise UserError(
        f"no zoo {name!r}: neither a layer nor a folder with an {INDEX}", hint=nearest(name, known)
    )
