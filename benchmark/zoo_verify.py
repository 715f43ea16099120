"""Whether a zoo holds: its index, its files, and the figures that stand beside its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from benchmark.datasets.contract import Dataset, TrainingData
from benchmark.errors import PluginError, UserError
from benchmark.purifier import PurifierModule
from benchmark.registry import Registry
from benchmark.zoo_figures import error_of, measure_gate
from benchmark.zoo_index import FILE_BYTES, Record, read_index, read_tensors
from benchmark.zoo_layers import ZooLayer
from benchmark.zoo_models import rebuild

_IMAGES_APART = 2
"""By how many images a figure may differ: another processor or release of torch rounds otherwise."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is None for what could not be looked at."""

    ok: bool | None
    subject: str
    detail: str


class _NotAtHandError(Exception):
    """The images or the classifier that a figure needs are missing; says which."""


def verify_zoo(layer: ZooLayer, registry: Registry, data: Path) -> Iterator[Finding]:
    """Check one zoo: one finding for its folder, and one or two for each training.

    Args:
        layer: The zoo.
        registry: Where the plugins are.
        data: Root folder of the data sets. Nothing is downloaded.
    """
    try:
        index = read_index(layer.folder)
    except UserError as error:
        yield Finding(False, layer.title, str(error))
        return
    stray = _stray_files(layer, {name for record in index.trainings for name in record.files})
    yield Finding(
        not stray,
        layer.title,
        f"the index does not name {', '.join(stray)}" if stray else f"{len(index.trainings)} trainings",
    )
    checks = _Checks(layer, {record.key: record for record in index.trainings}, registry, data)
    for record in index.trainings:
        yield from checks.of(record)


def _stray_files(layer: ZooLayer, named: set[str]) -> list[str]:
    if not layer.folder.local:
        return []
    found = [path.name for path in Path(layer.folder.url).iterdir() if ".safetensors" in path.name]
    return sorted(set(found) - named)


@dataclass(frozen=True)
class _Checks:
    layer: ZooLayer
    records: dict[str, Record]
    registry: Registry
    data: Path

    def of(self, record: Record) -> Iterator[Finding]:
        """What comes out for one training: its files, then its figures."""
        if not record.files:
            yield Finding(None, str(record), "listed without its weights")
            return
        try:
            read_tensors(self.layer.folder, record)
            large = self._too_large(record)
        except UserError as error:
            yield Finding(False, str(record), str(error))
            return
        yield Finding(not large, str(record), f"{large} is too large" if large else "files and checksum")
        if record.plugin_kind != "attack" and record.role in ("target", "source", "defense"):
            yield self._figures(record)

    def _too_large(self, record: Record) -> str | None:
        sizes = {name: self.layer.folder.size(name) or 0 for name in record.files if self.layer.folder.local}
        return next((name for name, size in sizes.items() if size > FILE_BYTES), None)

    def _figures(self, record: Record) -> Finding:
        try:
            module = rebuild(record, self.layer, self.registry)
            data = self._images(record)
            if isinstance(module, PurifierModule):
                return self._gate(record, module, data)
            return _error(record, module, data)
        except _NotAtHandError as missing:
            return Finding(None, str(record), f"figures not looked at: {missing}")
        except (UserError, PluginError) as error:
            return Finding(False, str(record), str(error))

    def _gate(self, record: Record, module: PurifierModule, data: TrainingData) -> Finding:
        stated = record.gate
        if stated is None:
            return Finding(None, str(record), "states no clean error")
        source = self.records.get(str(record.task.get("source")))
        if source is None or not source.files:
            raise _NotAtHandError(f"this zoo lacks its classifier, {record.source}")
        classifier = rebuild(source, self.layer, self.registry)
        found = measure_gate(module, classifier, data, limit=stated.limit, slow=False, count=stated.images)
        assert found is not None
        text = _compared("clean error added", stated.added, found.added)
        if not found.reached:
            return Finding(
                False, str(record), f"{text}: more than the {100 * stated.limit:g} points of its gate"
            )
        return Finding(_are_close(stated.added, found.added, stated.images), str(record), text)

    def _images(self, record: Record) -> TrainingData:
        """The images that it was trained on, opened once for all that were trained on them."""
        images = record.trained_on
        if images.images not in self._opened:
            self._opened[images.images] = self._open(record)
        return self._opened[images.images]

    @cached_property
    def _opened(self) -> dict[str, TrainingData]:
        return {}

    def _open(self, record: Record) -> TrainingData:
        images = record.trained_on
        kind: Any = self.registry.get("dataset", images.name).load()
        try:
            opened: Dataset[Any] = kind(kind.config_type()(**images.parameters), self.data)
            opened.prepare()
        except (UserError, ValidationError) as error:
            raise _NotAtHandError(f"the images of {record.dataset} are not at hand") from error
        if opened.fingerprint() != images.images:
            raise _NotAtHandError(f"{record.dataset} has other images here")
        splits = opened.splits()
        return TrainingData(
            splits.train, splits.validation, record.image_shape, record.classes, torch.device("cpu")
        )


def _error(record: Record, module: nn.Module, data: TrainingData) -> Finding:
    stated, found = record.figures.get("validation_error"), error_of(module, data)
    if not isinstance(stated, float | int) or found is None:
        return Finding(None, str(record), "states no validation error")
    same = _are_close(stated, found, len(data.validation))
    return Finding(same, str(record), _compared("validation error", stated, found))


def _are_close(stated: float, found: float, images: int) -> bool:
    return round(abs(stated - found) * images) <= _IMAGES_APART


def _compared(what: str, stated: float, found: float) -> str:
    return f"{what} {100 * found:.2f} %, stated {100 * stated:.2f} %"
