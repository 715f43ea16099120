"""Copies trainings into a store: from an external zoo, which is checked first, or from the layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.execution.context import address
from benchmark.execution.observer import Silent
from benchmark.runs import plan_run
from benchmark.storage.store import Store
from benchmark.storage.zoo_index import INDEX, ZooRecord, ZooSource, read_index, read_tensors
from benchmark.storage.zoo_layers import ZooLayer
from benchmark.storage.zoo_sources import Archive


def import_zoo(source: ZooSource, store_url: str) -> Iterator[str]:
    """Check an external zoo as a whole, then copy its trainings into a store; yields messages.

    If a check fails, a `UserError` names the file, and nothing is written.
    """
    index = read_index(source)
    complete = [record for record in index.trainings if record.files]
    if isinstance(source, Archive):
        expected = {name for record in complete for name in record.files} | {INDEX}
        if unknown := sorted(source.names - expected):
            raise UserError(f"{source.title}: the index does not name the file {unknown[0]}")
        if missing := sorted(expected - source.names):
            raise UserError(f"{source.title}: the index names the file {missing[0]}, which is missing")
    for record in complete:
        read_tensors(source, record)
    store = Store(store_url)
    for record in complete:
        if store.holds(record.address):
            yield f"{record} is already in the store"
        else:
            store.put_tensors(record.address, read_tensors(source, record), record.meta())
            yield str(record)
    if len(complete) < len(index.trainings):
        yield f"{len(index.trainings) - len(complete)} trainings are listed without their weights"


def fetch(layers: Collection[ZooLayer], store: Store, wanted: Collection[str]) -> Iterator[str]:
    """Copy trainings from the first layer that has them into the store itself; yields messages.

    `wanted` are keys, or prefixes of keys. A `UserError` if no layer has a training with one of them.
    """
    found: dict[str, tuple[ZooRecord, ZooLayer]] = {}
    for prefix in wanted:
        matching = [(r, layer) for layer in layers for r in layer.records() if r.key.startswith(prefix)]
        if not matching:
            message = f"no training in the zoo has a key that begins with {prefix!r}"
            raise UserError(message, hint="`bench zoo ls` lists the keys")
        for record, layer in matching:
            found.setdefault(record.key, (record, layer))
    for record, layer in found.values():
        if store.holds(record.address):
            yield f"{record} is already in the store"
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
    """The keys of the trainings that a grid needs and that a layer has."""
    planned = plan_run(grid, Silent(), data=data, store=store, plugins=plugins, zoo=False)
    addresses = [address(task) for task in planned.plan.tasks if task.kind.startswith("train")]
    return [found.key for found in addresses if any(layer.has(found) for layer in layers)]
