"""The content-addressed store: one result for each key, written once, whole or not at all.

An entry is a payload (safetensors or Parquet) and a JSON file that names it, with its checksum, and says
whose it is: its kind, label and key. The
JSON is renamed into place last: a reader sees the whole entry or none. Nothing is ever pickled.

Below the store there may be read-only layers, which offer entries that the store itself lacks.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec

from benchmark.errors import UserError
from benchmark.file_names import name_fault

_SUFFIXES = {"tensors": "safetensors", "table": "parquet"}


def default_store() -> str:
    """`BENCH_STORE`, else `~/.cache/bench`."""
    return os.environ.get("BENCH_STORE") or str(Path.home() / ".cache" / "bench")


@dataclass(frozen=True)
class Address:
    """Where an entry lives: its key, below its kind and the plugin it is about."""

    kind: str
    label: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.label}/{self.key}"


class Layer(Protocol):
    """A read-only place that offers entries under their addresses; `title` says where it is.

    It answers None for what it lacks and for what is damaged.
    """

    title: str

    def has(self, address: Address) -> bool: ...

    def has_any(self, kind: str, label: str) -> bool: ...

    def meta(self, address: Address) -> dict[str, Any] | None: ...

    def tensors(self, address: Address) -> dict[str, Any] | None: ...


class Store:
    """Results by address, on any file system that fsspec knows.

    Args:
        url: A folder or a URL such as `s3://bucket/path`.
        warn: Told of entries whose checksum does not match; they are set aside and count as absent.
        layers: Where to look, in this order, for what the store itself lacks.

    Raises:
        UserError: The place cannot be written.
    """

    def __init__(
        self,
        url: str,
        warn: Callable[[str], None] = lambda message: None,
        layers: Sequence[Layer] = (),
    ) -> None:
        self.url = url
        self._layers = layers
        self._warn = warn
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UserError(f"no store at {url}: {error}", hint="name another one with --store") from error
        self._local = "file" in _protocols(self._files)
        try:
            self._files.makedirs(self._root, exist_ok=True)
            if self._local and not os.access(self._root, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise UserError(
                f"the store {url} cannot be written: {error.strerror or error}",
                hint="name another one with --store or BENCH_STORE",
            ) from error

    def has(self, address: Address) -> bool:
        """Whether the store or a layer below it has the entry, whole."""
        return self.holds(address) or self.layer_of(address) is not None

    def holds(self, address: Address) -> bool:
        """Whether the store itself has the entry, whole."""
        return self._exists(self._path(address))

    def layer_of(self, address: Address) -> str | None:
        """The title of the layer that offers an entry; None if none does, or the store itself has it."""
        if self.holds(address):
            return None
        return next((layer.title for layer in self._layers if layer.has(address)), None)

    def has_any(self, kind: str, label: str) -> bool:
        """Whether there may be entries of a kind about a plugin; where not, none needs to be looked for."""
        return self._exists(f"{self._root}/{kind}/{label}") or any(
            layer.has_any(kind, label) for layer in self._layers
        )

    def meta(self, address: Address) -> dict[str, Any] | None:
        """The metadata that the entry was written with; None where it is absent or was damaged."""
        entry = self._entry(address)
        if entry is not None:
            return dict(entry["meta"])
        return next((m for layer in self._layers if (m := layer.meta(address)) is not None), None)

    def put_tensors(self, address: Address, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Write tensors (float32 stays float32) under an address."""
        from safetensors.torch import save

        self._put(address, "tensors", save(apart_in_memory(tensors)), meta)

    def get_tensors(self, address: Address) -> dict[str, Any] | None:
        """The tensors, on the CPU; None where the entry is absent or was damaged."""
        from safetensors.torch import load

        found = self._parsed(address, load)
        if found is not None:
            return dict(found)
        return next((t for layer in self._layers if (t := layer.tensors(address)) is not None), None)

    def replace_tensors(self, address: Address, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Write tensors in place of what is there: for the state of unfinished work alone."""
        earlier = self._payload(address)
        self.put_tensors(address, tensors, meta)
        if earlier is not None and earlier != self._payload(address):
            self._delete(earlier)

    def remove(self, address: Address) -> None:
        """Take away the state of unfinished work, where there is any."""
        payload = self._payload(address)
        self._delete(self._path(address))
        if payload is not None:
            self._delete(payload)

    def put_table(self, address: Address, table: Any, meta: Mapping[str, Any]) -> None:
        """Write a pyarrow table under an address."""
        import pyarrow.parquet

        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        self._put(address, "table", buffer.getvalue(), meta)

    def get_table(self, address: Address) -> Any:
        """The pyarrow table; None where the entry is absent or was damaged."""
        import pyarrow.parquet

        return self._parsed(address, lambda payload: pyarrow.parquet.read_table(io.BytesIO(payload)))

    def samples(self, kind: str, label: str, limit: int) -> Iterator[dict[str, Any]]:
        """The metadata of up to `limit` entries of the store itself, of a kind about a plugin."""
        if not self._exists(f"{self._root}/{kind}/{label}"):
            return
        folder = self._files.ls(f"{self._root}/{kind}/{label}", detail=False)
        names = [Path(name).stem for name in folder if str(name).endswith(".json")]
        for name in names[:limit]:
            meta = self.meta(Address(kind, label, name))
            if meta is not None:
                yield meta

    def _exists(self, path: str) -> bool:
        return os.path.exists(path) if self._local else bool(self._files.exists(path))

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):  # another run on this store was quicker
            self._files.rm_file(path)

    def _folder(self, address: Address) -> str:
        return f"{self._root}/{address.kind}/{address.label}"

    def _payload(self, address: Address) -> str | None:
        entry = self._entry(address)
        return None if entry is None else f"{self._folder(address)}/{entry['payload']}"

    def _path(self, address: Address) -> str:
        return f"{self._root}/{address}.json"

    def _put(self, address: Address, form: str, payload: bytes, meta: Mapping[str, Any]) -> None:
        checksum = hashlib.sha256(payload).hexdigest()
        # The payload's name holds its checksum: two writers of a key never overwrite one another's.
        name = f"{address.key}.{checksum[:12]}.{_SUFFIXES[form]}"
        folder = self._folder(address)
        self._files.makedirs(folder, exist_ok=True)
        self._write(f"{folder}/{name}", payload)
        entry = {**vars(address), "payload": name, "sha256": checksum, "meta": dict(meta)}
        self._write(self._path(address), json.dumps(entry, indent=1).encode())

    def _write(self, path: str, content: bytes) -> None:
        if not self._local:
            self._files.pipe_file(path, content)  # an object appears whole
            return
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        self._files.pipe_file(temporary, content)
        os.replace(temporary, path)

    def _entry(self, address: Address) -> dict[str, Any] | None:
        if not self.holds(address):
            return None
        try:
            entry = json.loads(self._files.cat_file(self._path(address)))
            whose = Address(entry["kind"], entry["label"], entry["key"])
            # The payload is read and deleted by its name: it has to lie beside this file, and be of this key.
            own = name_fault(entry["payload"]) is None and entry["payload"].startswith(f"{address.key}.")
            if own and whose == address and isinstance(entry["meta"], dict):
                return dict(entry)
        except FileNotFoundError:
            return None  # another run has removed it
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # half an entry is a damaged one, and so is one of another key, or one nested too deeply
        self._set_aside(address)
        return None

    def _get(self, address: Address) -> bytes | None:
        entry = self._entry(address)
        if entry is None:
            return None
        path = f"{self._folder(address)}/{entry['payload']}"
        payload = bytes(self._files.cat_file(path)) if self._files.isfile(path) else b""
        if hashlib.sha256(payload).hexdigest() == entry.get("sha256"):
            return payload
        self._set_aside(address)
        return None

    def _parsed(self, address: Address, parse: Callable[[bytes], Any]) -> Any:
        """The payload of an entry as `parse` reads it; None if the entry is absent or damaged."""
        payload = self._get(address)
        if payload is None:
            return None
        try:
            return parse(payload)
        except MemoryError:  # says nothing about the entry
            raise
        except (
            Exception
        ):  # the checksum is right, but it is no such file; each library complains in its own way
            self._set_aside(address)
            return None

    def _set_aside(self, address: Address) -> None:
        self._files.mv(self._path(address), f"{self._path(address)}.damaged")
        self._warn(f"the stored {address} is damaged: set aside, will be computed again")


def apart_in_memory(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Copies on the CPU: safetensors refuses tensors that share memory, as tied weights do."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _protocols(files: Any) -> tuple[str, ...]:
    protocol = files.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
