"""Exports the trainings of a finished run into a zoo: a folder or an archive."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from benchmark.errors import UserError
from benchmark.execution.context import ExecutionContext, Training, address
from benchmark.execution.dispatch import recompute_lost
from benchmark.files.names import inside
from benchmark.files.writing import make_output_folder, replacing, write_text
from benchmark.plan.specs import AttackSpec, DefenseSpec, TargetSpec
from benchmark.plan.tasks import PurifierSpec, PurifierStage, TrainAttack, TrainDefense, TrainTarget
from benchmark.runs import PlannedRun
from benchmark.storage.keys import SCHEMA
from benchmark.storage.zoo_index import (
    INDEX,
    TrainingImages,
    ZooIndex,
    ZooRecord,
    file_names,
    make_payload,
    parts_of,
    read_index,
)
from benchmark.storage.zoo_sources import ARCHIVES, Folder
from benchmark.zoo.measurements import measure_gate

_DEFENDER_ROLES = ("target", "source", "defense")
"""All other roles belong to an attack."""


@dataclass(frozen=True)
class ExportedTraining:
    """A training to be written into a zoo: its record and the content of its safetensors file."""

    record: ZooRecord
    content: bytes


def collect(
    planned: PlannedRun, *, attacks: bool, licence: str, commit: str | None
) -> Iterator[ExportedTraining | str]:
    """The trainings of a finished run, or messages about those that the store lacks.

    They are of targets, sources and defenses; with `attacks` also of substitutes, copies, trained attacks.
    """
    for task in planned.plan.tasks:
        if not isinstance(task, TrainTarget | TrainDefense | TrainAttack):
            continue
        if not _plugin(task).trainable or not (attacks or _role(task) in _DEFENDER_ROLES):
            continue
        if planned.context.store.has(address(task)):
            export = partial(_export, task, planned.context, licence, commit)
            yield recompute_lost(export, planned.context)
        else:
            yield f"{task.kind} {task.label} is not in the store: left out"


def _role(task: Training) -> str:
    return "attack" if isinstance(task, TrainAttack) else task.role


def write_zoo(
    place: Path,
    trainings: Iterator[ExportedTraining | str],
    *,
    at_most: int | None = None,
    replace: bool = False,
) -> Iterator[str]:
    """Write trainings from `collect` into a zoo; yields a message for each training.

    Args:
        place: A folder, to which the trainings are added, or an archive, which is written as a whole.
        trainings: Trainings, and messages, which are passed on.
        at_most: Larger weights (bytes) are listed in the index without their files.
        replace: Whether to replace weights of the same training that differ.
    """
    if place.name.endswith(ARCHIVES):
        yield from _write_archive(place, trainings)
        return
    make_output_folder(place, "--to")
    with FileLock(inside(place, place / ".lock")):  # `inside`: locking truncates the file
        index = read_index(Folder(str(place))) if (place / INDEX).is_file() else ZooIndex()
        known = {record.key: record for record in index.trainings}
        for entry in trainings:
            if isinstance(entry, str):
                yield entry
                continue
            record = entry.record
            if at_most is not None and record.bytes > at_most:
                record = record.model_copy(update={"files": ()})
            earlier = known.get(record.key)
            if earlier is not None and not _is_better(record, earlier, replace):
                same = earlier.sha256 == record.sha256
                note = "" if same else ", with other weights: kept (see --replace)"
                yield f"{record} is already in the zoo{note}"
                record = earlier
            else:
                yield _describe_export(record)
            if record.sha256 == entry.record.sha256:
                _write_parts(place, record, entry.content)
            known[record.key] = record
        if not known:
            raise UserError("nothing to export: the run has no training in the store")
        write_text(place / INDEX, ZooIndex(trainings=tuple(known.values())).text())
        used = {name for record in known.values() for name in record.files}
        for name in {name for record in index.trainings for name in record.files} - used:
            (place / name).unlink(missing_ok=True)


def _describe_export(record: ZooRecord) -> str:
    listed = "" if record.files else ", listed without its files"
    gate = "" if record.gate is None or record.gate.reached else "; it does not reach its gate"
    return f"{record}: {record.bytes / 1e6:.2f} MB{listed}{gate}"


def _is_better(record: ZooRecord, earlier: ZooRecord, replace: bool) -> bool:
    """Whether a record replaces an earlier one of the same training."""
    return replace if earlier.sha256 != record.sha256 else bool(record.files) and not earlier.files


def _write_parts(place: Path, record: ZooRecord, content: bytes) -> None:
    """Write the files of a training that are missing or damaged, each atomically."""
    for name, part in parts_of(record, content).items():
        path = place / name
        if not path.is_file() or path.is_symlink() or path.read_bytes() != part:
            with replacing(path) as file:
                file.write(part)


def _write_archive(place: Path, trainings: Iterator[ExportedTraining | str]) -> Iterator[str]:
    """Write an archive atomically."""
    make_output_folder(place.parent, "--to")
    records = []
    with replacing(place) as file, _archive_writer(file, place.suffix) as add:
        for entry in trainings:
            if isinstance(entry, str):
                yield entry
                continue
            for name, part in parts_of(entry.record, entry.content).items():
                add(name, part)
            records.append(entry.record)
            yield _describe_export(entry.record)
        if not records:
            raise UserError("nothing to export: the run has no training in the store")
        add(INDEX, ZooIndex(trainings=tuple(records)).text().encode())


@contextmanager
def _archive_writer(file: BinaryIO, suffix: str) -> Iterator[Callable[[str, bytes], None]]:
    """Open a new archive and return a function that adds a file to it.

    Archives have no timestamps, so that equal weights give equal archives.
    """
    if suffix == ".tar":
        with tarfile.TarFile(None, "w", file) as tar:

            def add(name: str, content: bytes) -> None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

            yield add
    else:
        with zipfile.ZipFile(file, "w") as archive:
            yield lambda name, content: archive.writestr(zipfile.ZipInfo(name), content)


def _export(task: Training, context: ExecutionContext, licence: str, commit: str | None) -> ExportedTraining:
    meta = context.meta(task)
    content = make_payload(context.tensors(task), address(task))
    earlier = meta.get("zoo")
    if isinstance(earlier, Mapping):  # from a zoo: keep its licence and commit
        licence, commit = str(earlier["licence"]), earlier["commit"]
    spec, images, dataset = _plugin(task), task.dataset, context.dataset(task.dataset)
    parameters = {name: value for name, value in images.config.items() if name not in images.apart}
    figures = {k: v for k, v in meta.items() if k not in ("task", "made", "zoo")}
    gate = None
    if isinstance(task, TrainDefense):
        noise_seed = task.seed if task.defense.stochastic else None
        purifier = PurifierSpec((PurifierStage(task.defense, task, noise_seed),))
        gate = measure_gate(
            context.purifier(purifier, task.dataset),
            context.target(task.source),
            context.training_data(task.dataset),
            limit=task.defense.gate,
            slow=task.defense.inner_optimisation,
        )
    record = ZooRecord(
        key=task.key,
        kind=task.kind,  # type: ignore[arg-type]
        label=task.label,
        dataset=images.title,
        seed=task.seed,
        role=_role(task),
        preset=spec.config.get("preset"),
        source=_source(task),
        parameters={name: value for name, value in spec.config.items() if name not in spec.files},
        needs_files={name: file.sha256 for name, file in spec.files.items()},
        image_shape=dataset.image_shape,
        classes=len(dataset.class_names),
        files=file_names(task.label, task.key, content),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence=licence,
        trained_on=TrainingImages(name=images.name, parameters=parameters, images=images.images),
        figures=figures | {"curve": figures.get("curve", [])[-1:]},
        gate=gate,
        commit=commit,
        made=meta.get("made") or {},
        key_schema=SCHEMA,
        task_version=task.version,
        task=json.loads(json.dumps(task.content())),
    )
    return ExportedTraining(record, content)


def _plugin(task: Training) -> TargetSpec | DefenseSpec | AttackSpec:
    if isinstance(task, TrainTarget):
        return task.target
    return task.defense if isinstance(task, TrainDefense) else task.attack


def _source(task: Training) -> str | None:
    if not isinstance(task, TrainDefense):
        return None
    source = task.source
    return f"{source.label} ({source.role}" + ("" if source.seed is None else f", seed {source.seed}") + ")"
