"""Trainings of a zoo into a store: from outside, all checked first, or from the layers below it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from benchmark.display import Silent
from benchmark.errors import UserError
from benchmark.runs import prepare
from benchmark.store import Store
from benchmark.work.workshop import address
from benchmark.zoo_index import (
    INDEX,
    Record,
    Source,
    read_index,
    read_tensors,
)
from benchmark.zoo_layers import ZooLayer
from benchmark.zoo_sources import Archive


def import_zoo(source: Source, store_url: str) -> Iterator[str]:
    """Check a zoo from outside, and only then put its trainings into a store.

    Raises:
        UserError: Anything about it is wrong; names the file. Nothing was written then.
    """
    index = read_index(source)
    complete = [record for record in index.trainings if record.files]
    if isinstance(source, Archive):
        _check_members(source, complete)
    for record in complete:
        read_tensors(source, record)
    store = Store(store_url)
    for record in complete:
        if store.holds(record.address):
            yield f"{record} is in the store already"
            continue
        store.put_tensors(record.address, read_tensors(source, record), record.meta())
        yield f"{record}"
    if len(complete) < len(index.trainings):
        yield f"{len(index.trainings) - len(complete)} trainings are listed without their weights"


def fetch(layers: Collection[ZooLayer], store: Store, wanted: Collection[str]) -> Iterator[str]:
    """Copy trainings from the layers into the store itself.

    Args:
        layers: Where to look, in this order.
        store: Where to.
        wanted: Keys, or how they begin.

    Raises:
        UserError: No layer has one of them.
    """
    found: dict[str, tuple[Record, ZooLayer]] = {}
    for begin in wanted:
        matching = [(r, layer) for layer in layers for r in layer.records() if r.key.startswith(begin)]
        if not matching:
            raise UserError(
                f"no training in the zoo has a key that begins with {begin!r}", hint="bench zoo ls"
            )
        for record, layer in matching:
            found.setdefault(record.key, (record, layer))
    for record, layer in found.values():
        if store.holds(record.address):
            yield f"{record} is in the store already"
        elif (tensors := layer.tensors(record.address)) is not None:
            store.put_tensors(record.address, tensors, record.meta())
            yield f"{record} {layer.title}"


def keys_for(
    grid: str,
    layers: Collection[ZooLayer],
    *,
    data: str | Path | None,
    store: str | Path | None,
    plugins: Sequence[Path],
) -> list[str]:
    """The keys of the trainings that a grid needs and the layers have."""
    prepared = prepare(grid, Silent(), data=data, store=store, plugins=plugins, zoo=False)
    places = [address(task) for task in prepared.plan.tasks if task.kind.startswith("train")]
    return [place.key for place in places if any(layer.has(place) for layer in layers)]


def _check_members(archive: Archive, records: Collection[Record]) -> None:
    named = {name for record in records for name in record.files} | {INDEX}
    unknown = sorted(archive.names - named)
    if unknown:
        raise UserError(f"{archive.title}: the index does not name the file {unknown[0]}")
    missing = sorted(named - archive.names)
    if missing:
        raise UserError(f"{archive.title}: the index names {missing[0]}, which is not in it")
