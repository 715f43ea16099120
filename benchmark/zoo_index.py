"""The index of a zoo: one record for each training, and how its weights lie in safetensors files.

A zoo is a folder, or an archive of one, with an `index.json` and the files that it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from typing_extensions import Self

from benchmark.errors import UserError
from benchmark.file_names import name_fault
from benchmark.keys import digest
from benchmark.store import Address, apart_in_memory

INDEX = "index.json"

FILE_BYTES = 25 * 10**6
"""The size of the largest file; more is split into parts."""

TRAINING_BYTES = 10**9
INDEX_BYTES = 32 * 10**6

_PLUGINS = {
    "train-target": "target",
    "train-substitute": "target",
    "train-defense": "defense",
    "train-attack": "attack",
}
"""The kinds of trainings, and what each trains."""

_PAYLOAD = re.compile(r".+\.safetensors(\.\d{2})?")
_OWNER = "training"
"""The entry in the header of a safetensors file that says whose weights it holds."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Gate(_Model):
    """The clean error that a defense adds to its source classifier on the first validation images.

    limit: the most that the defense may add, a fraction.
    added: what it added when it was exported.
    images: how many validation images were used.
    """

    limit: float
    added: float
    images: int = Field(ge=1)

    @property
    def reached(self) -> bool:
        return self.added <= self.limit


class TrainingImages(_Model):
    """A data set: its name, its parameters less those that name places, the digest of its images."""

    name: str
    parameters: dict[str, Any]
    images: str


class Record(_Model):
    """One training: what names it, what rebuilds its module, its files, and the figures it should give.

    Attributes:
        key: The key of the task, which follows from `key_schema`, `kind`, `task_version` and `task`.
        label: The name of the plugin.
        dataset: The title of the data set.
        role: `target`, `source`, `defense`, or the part that it plays for an attacker.
        source: The classifier that a defense was trained with, in words.
        parameters: All parameters of the plugin, less those that name files.
        needs_files: Digests of the files that parameters name, by parameter.
        files: Names of the files, in the order in which they are joined; none if the weights are elsewhere.
        bytes: Size of the joined files.
        sha256: Checksum of the joined files.
        figures: What the training noted: seconds, the end of its curve, the validation error of a classifier.
        commit: The commit that the run was made with.
        made: Code and environment that the training was made with.
        task: What the task declares that its result depends on.
    """

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: Literal["train-target", "train-substitute", "train-defense", "train-attack"]
    label: str
    dataset: str
    seed: int | None
    role: str
    preset: str | None = None
    source: str | None = None
    parameters: dict[str, Any]
    needs_files: dict[str, str] = {}
    image_shape: tuple[int, int, int]
    classes: int = Field(ge=1)
    files: tuple[str, ...]
    bytes: int = Field(ge=1, le=TRAINING_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str
    trained_on: TrainingImages
    figures: dict[str, Any]
    gate: Gate | None = None
    commit: str | None = None
    made: dict[str, Any]
    key_schema: int
    task_version: int
    task: dict[str, Any]

    @field_validator("label")
    @classmethod
    def _plain(cls, label: str) -> str:
        if name_fault(label) is not None:
            raise ValueError(f"{label!r} is no plain name")
        return label

    @field_validator("dataset", "role", "preset", "source", "licence", "commit")
    @classmethod
    def _printable(cls, text: str | None) -> str | None:
        if text is not None and not text.isprintable():  # it is shown on terminals
            raise ValueError(f"{text!r} has characters that cannot be printed")
        return text

    @field_validator("files")
    @classmethod
    def _plain_files(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for name in files:
            if not (name_fault(name) is None and _PAYLOAD.fullmatch(name)):
                raise ValueError(f"{name!r} is no plain name of a safetensors file")
        return files

    @model_validator(mode="after")
    def _names_itself(self) -> Self:
        named = {"schema": self.key_schema, "kind": self.kind, "version": self.task_version}
        if digest(named | self.task) != self.key:
            raise ValueError("the key does not follow from what the training depends on")
        if self.plugin.get("name") != self.label:
            raise ValueError(f"the training is not one of {self.label}")
        return self

    @property
    def plugin_kind(self) -> str:
        return _PLUGINS[self.kind]

    @property
    def plugin(self) -> Mapping[str, Any]:
        """What the task says of the plugin: its name, version, and parameters off their defaults."""
        found = self.task.get(self.plugin_kind)
        return found if isinstance(found, dict) else {}

    @property
    def address(self) -> Address:
        return Address(self.kind, self.label, self.key)

    def meta(self) -> dict[str, Any]:
        """The metadata of the entry in a store; the record itself goes with it."""
        return {**self.figures, "task": self.task, "made": self.made, "zoo": self.model_dump(mode="json")}

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.plugin_kind} {self.label} on {self.dataset} ({self.role}{seed}, key {self.key[:12]})"

    def describe(self) -> str:
        """What it is and what it was trained on, in one line."""
        parts = [f"{self.label}, trained on {self.dataset}"]
        parts += [] if self.seed is None else [f"seed {self.seed}"]
        parts += [f"preset {self.preset}"] if self.preset else []
        changed = {k: v for k, v in self.plugin.get("config", {}).items() if k != "preset"}
        parts += [", ".join(f"{name}={value}" for name, value in changed.items())] if changed else []
        parts += [f"with {self.source}"] if self.source else []
        return "; ".join([", ".join(parts), *self._figures()])

    def _figures(self) -> list[str]:
        error = self.figures.get("validation_error")
        texts = [f"validation error {100 * error:.2f} %"] if isinstance(error, float) else []
        if self.gate is not None:
            added, images = 100 * self.gate.added, self.gate.images
            over = "" if self.gate.reached else f", more than the {100 * self.gate.limit:g} of its gate"
            texts.append(f"adds {added:.1f} points of clean error on {images} validation images{over}")
        return texts


class Index(_Model):
    """All records of a zoo. `format` is raised when a reader of the earlier one could not use it."""

    format: Literal[1] = 1
    trainings: tuple[Record, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        for what, names in (
            ("training", [str(record.address) for record in self.trainings]),
            ("file", [name for record in self.trainings for name in record.files]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"the {what} {twice[0]} is named twice")
        return self

    def text(self) -> str:
        """The JSON of the index, sorted, so that an addition changes few lines."""
        ordered = sorted(
            self.trainings, key=lambda record: (record.dataset, record.kind, str(record.address))
        )
        return json.dumps(Index(trainings=tuple(ordered)).model_dump(mode="json"), indent=1) + "\n"


class Source(Protocol):
    """Files of a zoo by name: a folder, a URL or an archive. `title` says where it is."""

    title: str

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file.

        Raises:
            UserError: It cannot be read, or has more than `limit` bytes; names it.
        """


def read_index(source: Source) -> Index:
    """The index of a zoo.

    Raises:
        UserError: It cannot be read, or is not one.
    """
    text = source.read(INDEX, INDEX_BYTES)
    try:
        return Index.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{source.title}: {INDEX} is not the index of a zoo: {f'{where}: ' if where else ''}{message}"
        ) from error


def read_payload(source: Source, record: Record) -> bytes:
    """The safetensors content of a record, whole and with its checksum.

    Raises:
        UserError: A file cannot be read, or is not what the record says; names it.
    """
    content = b"".join(source.read(name, FILE_BYTES) for name in record.files)
    if len(content) != record.bytes or hashlib.sha256(content).hexdigest() != record.sha256:
        raise UserError(
            f"{source.title}: {', '.join(record.files)} is not what the index says: other checksum"
        )
    return content


def parse_payload(source: Source, record: Record, content: bytes) -> dict[str, Any]:
    """The tensors in the content of a record.

    Raises:
        UserError: It is no safetensors, or holds the weights of another training; names the file.
    """
    name = f"{source.title}: {', '.join(record.files)}"
    try:
        tensors: dict[str, Any] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{name} is no safetensors file: {error}") from error
    if _owner(content) != str(record.address):
        raise UserError(f"{name} holds the weights of another training")
    return tensors


def read_tensors(source: Source, record: Record) -> dict[str, Any]:
    """The tensors of a record, checked.

    Raises:
        UserError: As `read_payload` and `parse_payload`.
    """
    return parse_payload(source, record, read_payload(source, record))


def make_payload(tensors: Mapping[str, Any], address: Address) -> bytes:
    """Tensors as the content of a safetensors file that says whose they are."""
    # One entry only: safetensors writes several in any order, and equal weights shall be equal files.
    return bytes(save(apart_in_memory(tensors), metadata={_OWNER: str(address)}))


def parts_of(record: Record, content: bytes) -> dict[str, bytes]:
    """The content of each file of a record, by name."""
    size = FILE_BYTES
    return {name: content[i * size : (i + 1) * size] for i, name in enumerate(record.files)}


def file_names(label: str, key: str, content: bytes) -> tuple[str, ...]:
    """Names for the files of a training; with the checksum in them no file ever replaces another."""
    stem = f"{label}-{key[:12]}-{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
    count = -(-len(content) // FILE_BYTES)
    return (stem,) if count == 1 else tuple(f"{stem}.{number:02}" for number in range(1, count + 1))


def _owner(content: bytes) -> str | None:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    owner = header.get("__metadata__", {}).get(_OWNER)
    return owner if isinstance(owner, str) else None
