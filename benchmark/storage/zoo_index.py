"""The index of a zoo, with one record per training, and the safetensors files of the weights.

A zoo is a folder, or an archive of one, with an `index.json` and the files that it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from typing_extensions import Self

from benchmark.errors import UserError
from benchmark.files.names import name_fault
from benchmark.storage.keys import digest
from benchmark.storage.store import Address, unshared_copies

INDEX = "index.json"

FILE_BYTES = 25 * 10**6
"""The maximum size of a file; larger weights are split into parts."""

TRAINING_BYTES = 10**9
INDEX_BYTES = 32 * 10**6

_TRAINING = "training"
"""The entry in the header of a safetensors file with the address of the training."""


def _check_plain(name: str) -> str:
    if name_fault(name) is not None:
        raise ValueError(f"{name!r} is not a plain name")
    return name


def _check_payload(name: str) -> str:
    if name_fault(name) is not None or not re.fullmatch(r".+\.safetensors(\.\d{2})?", name):
        raise ValueError(f"{name!r} is not a plain name of a safetensors file")
    return name


def _check_printable(text: str) -> str:
    if not text.isprintable():  # records are shown on terminals
        raise ValueError(f"{text!r} has unprintable characters")
    return text


PlainName = Annotated[str, AfterValidator(_check_plain)]
PayloadName = Annotated[str, AfterValidator(_check_payload)]
Printable = Annotated[str, AfterValidator(_check_printable)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Gate(_Model):
    """The clean error that a defense adds to its source classifier on the first `images` validation images.

    `limit`, the maximum that it may add, and `added`, what it added at export, are fractions.
    """

    limit: float
    added: float
    images: int = Field(ge=1)

    @property
    def reached(self) -> bool:
        return self.added <= self.limit


class TrainingImages(_Model):
    """A data set: its name, its parameters except those that name paths, and the digest of its images."""

    name: str
    parameters: dict[str, Any]
    images: str


class ZooRecord(_Model):
    """One training: its identity, the parameters of its module, its files, and its metrics.

    Attributes:
        key: The key of the task, which follows from `key_schema`, `kind`, `task_version` and `task`.
        label, dataset: The name of the plugin, and the title of the data set.
        role: `target`, `source`, `defense`, or a role in an attack.
        source: The classifier that a defense was trained with, in words.
        parameters: All parameters of the plugin, except those that name files.
        needs_files: Digests of the files that parameters name, by parameter.
        files: Names of the files, in the order in which they are joined; empty if the zoo lacks the weights.
        bytes, sha256: Size and checksum of the joined files.
        figures: Metrics of the training: seconds, end of the curve, validation error of a classifier.
        made: Code and environment of the training.
        task: Everything that the result is declared to depend on.
    """

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: Literal["train-target", "train-substitute", "train-defense", "train-attack"]
    label: PlainName
    dataset: Printable
    seed: int | None
    role: Printable
    preset: Printable | None = None
    source: Printable | None = None
    parameters: dict[str, Any]
    needs_files: dict[str, str] = {}
    image_shape: tuple[int, int, int]
    classes: int = Field(ge=1)
    files: tuple[PayloadName, ...]
    bytes: int = Field(ge=1, le=TRAINING_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: Printable
    trained_on: TrainingImages
    figures: dict[str, Any]
    gate: Gate | None = None
    commit: Printable | None = None
    made: dict[str, Any]
    key_schema: int
    task_version: int
    task: dict[str, Any]

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        content = {"schema": self.key_schema, "kind": self.kind, "version": self.task_version}
        if digest(content | self.task) != self.key:
            raise ValueError("the key does not follow from the declared dependencies")
        if self.plugin.get("name") != self.label:
            raise ValueError(f"the training is not of plugin {self.label}")
        return self

    @property
    def plugin_kind(self) -> str:
        return "target" if self.kind == "train-substitute" else self.kind.removeprefix("train-")

    @property
    def plugin(self) -> Mapping[str, Any]:
        """The plugin as declared by the task: name, version, and parameters that differ from the defaults."""
        plugin = self.task.get(self.plugin_kind)
        return plugin if isinstance(plugin, dict) else {}

    @property
    def address(self) -> Address:
        return Address(self.kind, self.label, self.key)

    def meta(self) -> dict[str, Any]:
        """The metadata of a store entry; includes the record."""
        return {**self.figures, "task": self.task, "made": self.made, "zoo": self.model_dump(mode="json")}

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.plugin_kind} {self.label} on {self.dataset} ({self.role}{seed}, key {self.key[:12]})"

    def describe(self) -> str:
        """Plugin, data set, seed, parameters and metrics in one line."""
        parts = [f"{self.label}, trained on {self.dataset}"]
        parts += [] if self.seed is None else [f"seed {self.seed}"]
        parts += [f"preset {self.preset}"] if self.preset else []
        parts += [f"{k}={v}" for k, v in self.plugin.get("config", {}).items() if k != "preset"]
        parts += [f"with {self.source}"] if self.source else []
        return "; ".join([", ".join(parts), *self._metric_texts()])

    def _metric_texts(self) -> list[str]:
        error = self.figures.get("validation_error")
        texts = [f"validation error {100 * error:.2f} %"] if isinstance(error, float) else []
        if self.gate is not None:
            added, images = 100 * self.gate.added, self.gate.images
            over = "" if self.gate.reached else f", more than the {100 * self.gate.limit:g} of its gate"
            texts.append(f"adds {added:.1f} points of clean error on {images} validation images{over}")
        return texts


class ZooIndex(_Model):
    """All records of a zoo. `format` increases if earlier readers cannot use the index."""

    format: Literal[1] = 1
    trainings: tuple[ZooRecord, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        for noun, names in (
            ("training", [str(record.address) for record in self.trainings]),
            ("file", [name for record in self.trainings for name in record.files]),
        ):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise ValueError(f"the {noun} {repeated[0]} is named twice")
        return self

    def text(self) -> str:
        """The index as JSON, sorted so that an addition changes few lines."""
        ordered = sorted(self.trainings, key=lambda r: (r.dataset, r.kind, str(r.address)))
        return json.dumps(ZooIndex(trainings=tuple(ordered)).model_dump(mode="json"), indent=1) + "\n"


class ZooSource(Protocol):
    """The files of a zoo in a folder, at a URL or in an archive."""

    title: str
    """Where it is, in words."""

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file; a `UserError` if it cannot be read or has more than `limit` bytes."""


def read_index(source: ZooSource) -> ZooIndex:
    """The index of a zoo; a `UserError` if it cannot be read or is invalid."""
    text = source.read(INDEX, INDEX_BYTES)
    try:
        return ZooIndex.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        texts = (".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, "))
        message = ": ".join(filter(None, texts))
        raise UserError(f"{source.title}: {INDEX} is not a valid index: {message}") from error


def read_tensors(source: ZooSource, record: ZooRecord) -> dict[str, Any]:
    """The tensors of a record, after all checks.

    A `UserError` names the files if they cannot be read, differ from the record in size or checksum, are not
    safetensors, or have the weights of another training.
    """
    content = b"".join(source.read(name, FILE_BYTES) for name in record.files)
    name = f"{source.title}: {', '.join(record.files)}"
    if len(content) != record.bytes or hashlib.sha256(content).hexdigest() != record.sha256:
        raise UserError(f"{name} has not the checksum of the index")
    try:
        tensors: dict[str, Any] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{name} is not a safetensors file: {error}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if header.get("__metadata__", {}).get(_TRAINING) != str(record.address):
        raise UserError(f"{name} has the weights of another training")
    return {name: t.float() if t.dtype == torch.bfloat16 else t for name, t in tensors.items()}


def make_payload(tensors: Mapping[str, Any], address: Address) -> bytes:
    """The content of a safetensors file with the tensors and the address of their training.

    If bfloat16 represents all float32 tensors exactly, because the training ended by rounding its weights,
    they are written in bfloat16: half the size.
    """
    floats = {name: t for name, t in tensors.items() if t.dtype == torch.float32}
    short = {name: t.bfloat16() for name, t in floats.items()}
    if all(torch.equal(short[name].float(), t) for name, t in floats.items()):
        tensors = {**tensors, **short}
    # Only one entry: safetensors writes several in random order, but equal weights must give equal files.
    return bytes(save(unshared_copies(tensors), metadata={_TRAINING: str(address)}))


def parts_of(record: ZooRecord, content: bytes) -> dict[str, bytes]:
    """The content of each file of a record, by name."""
    return {name: content[i * FILE_BYTES : (i + 1) * FILE_BYTES] for i, name in enumerate(record.files)}


def file_names(label: str, key: str, content: bytes) -> tuple[str, ...]:
    """Names for the files of a training; the checksum in them keeps a file from replacing another."""
    stem = f"{label}-{key[:12]}-{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
    count = -(-len(content) // FILE_BYTES)
    return (stem,) if count == 1 else tuple(f"{stem}.{number:02}" for number in range(1, count + 1))
