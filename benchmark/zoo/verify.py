"""Checks of a zoo: its index, its files, and the metrics of its trainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from benchmark.api.dataset import Dataset, TrainingData
from benchmark.errors import PluginError, UserError
from benchmark.execution.purifier import PurifierModule
from benchmark.findings import Finding
from benchmark.plugins.registry import Registry
from benchmark.storage.zoo_index import FILE_BYTES, ZooRecord, read_index, read_tensors
from benchmark.storage.zoo_layers import ZooLayer
from benchmark.zoo.measurements import measure_gate, validation_error
from benchmark.zoo.models import rebuild

_TOLERANCE = 2
"""Images by which a metric may differ: rounding depends on the processor and the version of torch."""


class _UnavailableError(Exception):
    """The images or the classifier of a measurement are unavailable; names them."""


def verify_zoo(layer: ZooLayer, registry: Registry, data: Path) -> Iterator[Finding]:
    """Check one zoo: one finding for its folder, and one or two for each training.

    `data` is the root folder of the data sets. Nothing is downloaded.
    """
    try:
        index = read_index(layer.folder)
    except UserError as error:
        yield Finding(False, layer.title, str(error))
        return
    listed = {name for record in index.trainings for name in record.files}
    present = Path(layer.folder.url).glob("*.safetensors*") if layer.folder.local else ()
    unlisted = sorted({path.name for path in present} - listed)
    fault = f"the index does not name {', '.join(unlisted)}" if unlisted else None
    yield Finding(not unlisted, layer.title, fault or f"{len(index.trainings)} trainings")
    verifier = _Verifier(layer, {record.key: record for record in index.trainings}, registry, data)
    for record in index.trainings:
        yield from verifier.verify(record)


@dataclass(frozen=True)
class _Verifier:
    layer: ZooLayer
    records: dict[str, ZooRecord]
    registry: Registry
    data: Path
    opened: dict[str, TrainingData] = field(default_factory=dict)
    """Data sets by the digest of their images."""

    def verify(self, record: ZooRecord) -> Iterator[Finding]:
        """Check the files of a training, then its metrics."""
        if not record.files:
            yield Finding(None, str(record), "listed without its weights")
            return
        try:
            read_tensors(self.layer.folder, record)
        except UserError as error:
            yield Finding(False, str(record), str(error))
            return
        sizes = {name: self.layer.folder.size(name) or 0 for name in record.files if self.layer.folder.local}
        large = next((name for name, size in sizes.items() if size > FILE_BYTES), None)
        yield Finding(not large, str(record), f"{large} is too large" if large else "files and checksum")
        if record.plugin_kind != "attack" and record.role in ("target", "source", "defense"):
            yield self._verify_metric(record)

    def _verify_metric(self, record: ZooRecord) -> Finding:
        try:
            module = rebuild(record, self.layer, self.registry)
            data = self._training_data(record)
            if isinstance(module, PurifierModule):
                return self._verify_gate(record, module, data)
            return _verify_error(record, module, data)
        except _UnavailableError as reason:
            return Finding(None, str(record), f"metrics not checked: {reason}")
        except (UserError, PluginError) as error:
            return Finding(False, str(record), str(error))

    def _verify_gate(self, record: ZooRecord, module: PurifierModule, data: TrainingData) -> Finding:
        stated = record.gate
        if stated is None:
            return Finding(None, str(record), "states no clean error")
        source = self.records.get(str(record.task.get("source")))
        if source is None or not source.files:
            raise _UnavailableError(f"this zoo lacks its classifier, {record.source}")
        classifier = rebuild(source, self.layer, self.registry)
        found = measure_gate(module, classifier, data, limit=stated.limit, slow=False, count=stated.images)
        assert found is not None
        text = _compare("clean error added", stated.added, found.added)
        if not found.reached:
            limit = f"more than the {100 * stated.limit:g} points of its gate"
            return Finding(False, str(record), f"{text}: {limit}")
        return Finding(_are_close(stated.added, found.added, stated.images), str(record), text)

    def _training_data(self, record: ZooRecord) -> TrainingData:
        """The images of a training; each data set is opened once."""
        images = record.trained_on
        if images.images in self.opened:
            return self.opened[images.images]
        plugin: Any = self.registry.get("dataset", images.name).load()
        try:
            dataset: Dataset[Any] = plugin(plugin.config_type()(**images.parameters), self.data)
            dataset.prepare()
        except (UserError, ValidationError) as error:
            raise _UnavailableError(f"the images of {record.dataset} are missing") from error
        if dataset.fingerprint() != images.images:
            raise _UnavailableError(f"{record.dataset} has other images on this machine")
        splits, device = dataset.splits(), torch.device("cpu")
        opened = TrainingData(splits.train, splits.validation, record.image_shape, record.classes, device)
        return self.opened.setdefault(images.images, opened)


def _verify_error(record: ZooRecord, module: nn.Module, data: TrainingData) -> Finding:
    stated, found = record.figures.get("validation_error"), validation_error(module, data)
    if not isinstance(stated, float | int) or found is None:
        return Finding(None, str(record), "states no validation error")
    close = _are_close(stated, found, len(data.validation))
    return Finding(close, str(record), _compare("validation error", stated, found))


def _are_close(stated: float, found: float, images: int) -> bool:
    return round(abs(stated - found) * images) <= _TOLERANCE


def _compare(metric: str, stated: float, found: float) -> str:
    return f"{metric} {100 * found:.2f} %, stated {100 * stated:.2f} %"
