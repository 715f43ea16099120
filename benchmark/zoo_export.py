"""Trainings of a finished run into a zoo: a folder, or an archive."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from benchmark.errors import UserError
from benchmark.file_names import inside
from benchmark.keys import SCHEMA
from benchmark.output import open_out, write_text
from benchmark.refs import DatasetRef, PluginRef
from benchmark.runs import Prepared
from benchmark.tasks import Part, Purifier, Task, TrainAttack, TrainDefense, TrainTarget
from benchmark.work.workshop import Training, Workshop, address
from benchmark.writing import replacing
from benchmark.zoo_figures import measure_gate
from benchmark.zoo_index import (
    INDEX,
    Gate,
    Index,
    Record,
    TrainingImages,
    file_names,
    make_payload,
    parts_of,
    read_index,
)
from benchmark.zoo_sources import ARCHIVES, Folder

_OWN_ROLES = ("target", "source", "defense")
"""What a grid protects or protects with; all other roles are an attacker's."""


@dataclass(frozen=True)
class Offered:
    """A training to be written into a zoo."""

    record: Record
    content: bytes


def trainings_of(prepared: Prepared, *, attacks: bool = False) -> list[Training]:
    """The trainings of a plan: of targets, sources and defenses, and on demand what attackers train."""
    chosen = []
    for task in prepared.plan.tasks:
        if isinstance(task, TrainTarget | TrainDefense | TrainAttack) and _is_trained(task):
            role = task.kind if isinstance(task, TrainAttack) else task.role
            if attacks or (role in _OWN_ROLES and task.kind in ("train-target", "train-defense")):
                chosen.append(task)
    return chosen


def collect(
    prepared: Prepared, *, attacks: bool, licence: str, commit: str | None
) -> Iterator[Offered | str]:
    """The trainings of a finished run as they go into a zoo, or a sentence on one that cannot."""
    for task in trainings_of(prepared, attacks=attacks):
        if not prepared.workshop.store.has(address(task)):
            yield f"{task.kind} {task.label} is not in the store: left out"
            continue
        yield _offered(task, prepared.workshop, licence, commit)


def write_zoo(
    place: Path, offered: Iterator[Offered | str], *, at_most: int | None = None, replace: bool = False
) -> Iterator[str]:
    """Write trainings into a zoo, and say of each what became of it.

    Args:
        place: A folder, to which they are added, or an archive, which is written as a whole.
        offered: The trainings.
        at_most: Larger weights (bytes) are listed in the index without their files.
        replace: Whether other weights of a training that the zoo has already are put in their place.

    Raises:
        UserError: It cannot be written, or there is nothing to write.
    """
    if place.name.endswith(ARCHIVES):
        yield from _write_archive(place, offered)
        return
    open_out(place, "--to")
    with FileLock(inside(place, place / ".lock")):  # to lock a file empties it
        index = read_index(Folder(str(place))) if (place / INDEX).is_file() else Index()
        known = {record.key: record for record in index.trainings}
        for entry in offered:
            if isinstance(entry, str):
                yield entry
                continue
            record = entry.record
            if at_most is not None and record.bytes > at_most:
                record = record.model_copy(update={"files": ()})
            earlier = known.get(record.key)
            if earlier is not None and not _is_better(record, earlier, replace):
                same = earlier.sha256 == record.sha256
                yield f"{record} is in it already" + (
                    "" if same else ", with other weights: kept (see --replace)"
                )
                record = earlier
            else:
                yield _written(record)
            if record.sha256 == entry.record.sha256:
                _write_parts(place, record, entry.content)
            known[record.key] = record
        if not known:
            raise UserError("nothing to export: the run has no training in the store")
        write_text(place / INDEX, Index(trainings=tuple(known.values())).text())
        _remove_files_of(index, place, {name for record in known.values() for name in record.files})


def _written(record: Record) -> str:
    listed = "" if record.files else ", listed without its files"
    gate = "" if record.gate is None or record.gate.reached else "; it does not reach its gate"
    return f"{record}: {record.bytes / 1e6:.2f} MB{listed}{gate}"


def _is_trained(task: Training) -> bool:
    return not isinstance(task, TrainTarget) or task.target.trainable


def _is_better(record: Record, earlier: Record, replace: bool) -> bool:
    """Whether a record should stand in place of an earlier one of the same training."""
    if earlier.sha256 != record.sha256:
        return replace
    return bool(record.files) and not earlier.files


def _write_parts(place: Path, record: Record, content: bytes) -> None:
    """Write the files of a training that are missing or damaged; each is renamed into place."""
    for name, part in parts_of(record, content).items():
        path = place / name
        if path.is_file() and not path.is_symlink() and path.read_bytes() == part:
            continue
        with replacing(path) as file:
            file.write(part)


def _remove_files_of(earlier: Index, place: Path, kept: Collection[str]) -> None:
    for record in earlier.trainings:
        for name in record.files:
            if name not in kept:
                (place / name).unlink(missing_ok=True)


def _write_archive(place: Path, offered: Iterator[Offered | str]) -> Iterator[str]:
    """Write an archive beside its final name and rename it: it appears whole or not at all."""
    open_out(place.parent, "--to")
    records = []
    with replacing(place) as file, _Writer(file, place.suffix) as archive:
        for entry in offered:
            if isinstance(entry, str):
                yield entry
                continue
            for name, part in parts_of(entry.record, entry.content).items():
                archive.add(name, part)
            records.append(entry.record)
            yield _written(entry.record)
        if not records:
            raise UserError("nothing to export: the run has no training in the store")
        archive.add(INDEX, Index(trainings=tuple(records)).text().encode())


class _Writer:
    """Adds files to a new tar or zip archive, without times: equal weights give equal archives."""

    def __init__(self, file: BinaryIO, suffix: str) -> None:
        self._tar = tarfile.TarFile(None, "w", file) if suffix == ".tar" else None
        self._zip = zipfile.ZipFile(file, "w") if self._tar is None else None

    def add(self, name: str, content: bytes) -> None:
        if self._tar is not None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        if self._zip is not None:
            self._zip.writestr(zipfile.ZipInfo(name), content)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for archive in (self._tar, self._zip):
            if archive is not None:
                archive.close()


def _offered(task: Training, workshop: Workshop, licence: str, commit: str | None) -> Offered:
    meta = workshop.meta(task)
    content = make_payload(workshop.tensors(task), address(task))
    earlier = meta.get("zoo")
    if isinstance(earlier, Mapping):  # it came from a zoo, whose words stay
        licence, commit = str(earlier["licence"]), earlier["commit"]
    ref, dataset = _plugin(task), workshop.dataset(task.dataset)
    figures = {k: v for k, v in meta.items() if k not in ("task", "made", "zoo")}
    record = Record(
        key=task.key,
        kind=task.kind,  # type: ignore[arg-type]
        label=task.label,
        dataset=task.dataset.title,
        seed=task.seed,
        role="attack" if isinstance(task, TrainAttack) else task.role,
        preset=ref.config.get("preset"),
        source=_source(task),
        parameters={name: value for name, value in ref.config.items() if name not in ref.files},
        needs_files={name: file.sha256 for name, file in ref.files.items()},
        image_shape=dataset.image_shape,
        classes=len(dataset.class_names),
        files=file_names(task.label, task.key, content),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence=licence,
        trained_on=_trained_on(task.dataset),
        figures=figures | {"curve": figures.get("curve", [])[-1:]},
        gate=_gate(task, workshop) if isinstance(task, TrainDefense) else None,
        commit=commit,
        made=meta.get("made") or {},
        key_schema=SCHEMA,
        task_version=task.version,
        task=_plain_json(task),
    )
    return Offered(record, content)


def _plugin(task: Training) -> PluginRef:
    if isinstance(task, TrainTarget):
        return task.target
    return task.defense if isinstance(task, TrainDefense) else task.attack


def _source(task: Task) -> str | None:
    if not isinstance(task, TrainDefense):
        return None
    source = task.source
    return f"{source.label} ({source.role}" + ("" if source.seed is None else f", seed {source.seed}") + ")"


def _trained_on(dataset: DatasetRef) -> TrainingImages:
    parameters = {name: value for name, value in dataset.config.items() if name not in dataset.apart}
    return TrainingImages(name=dataset.name, parameters=parameters, images=dataset.images)


def _gate(task: TrainDefense, workshop: Workshop) -> Gate | None:
    seed = task.seed if task.defense.stochastic else None
    purifier = Purifier((Part(task.defense, task, seed),))
    return measure_gate(
        workshop.purifier(purifier, task.dataset),
        workshop.target(task.source),
        workshop.training_data(task.dataset),
        limit=task.defense.gate,
        slow=task.defense.inner_optimisation,
    )


def _plain_json(task: Task) -> dict[str, Any]:

    return dict(json.loads(json.dumps(task.content())))
