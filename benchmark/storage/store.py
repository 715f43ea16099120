"""The content-addressed store: one result per key, written once and atomically.

An entry is a payload (safetensors or Parquet) and a JSON file with the name and checksum of the payload and
the kind, label and key of the entry. The JSON file is renamed into place last: a reader sees the whole entry
or no entry. Nothing is pickled.

Read-only layers may provide entries that the store itself lacks.
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
from benchmark.files.names import name_fault

_SUFFIXES = {"tensors": "safetensors", "table": "parquet"}


def default_store() -> str:
    """`BENCH_STORE`, else `~/.cache/bench`."""
    return os.environ.get("BENCH_STORE") or str(Path.home() / ".cache" / "bench")


@dataclass(frozen=True)
class Address:
    """The place of an entry: a kind of task, the name of a plugin, and a key."""

    kind: str
    label: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.label}/{self.key}"


class Layer(Protocol):
    """A read-only source of entries; its methods return None for missing and damaged entries."""

    title: str
    """Where it is, in words."""

    def has(self, address: Address) -> bool: ...

    def has_any(self, kind: str, label: str) -> bool: ...

    def meta(self, address: Address) -> dict[str, Any] | None: ...

    def tensors(self, address: Address) -> dict[str, Any] | None: ...


class Store:
    """Results by address, on any file system that fsspec knows.

    Args:
        url: A folder or a URL such as `s3://bucket/path`.
        warn: Receives a message for each damaged entry. The entry is set aside and counts as missing.
        layers: Searched in this order for entries that the store itself lacks.

    Raises:
        UserError: The store cannot be written.
    """

    def __init__(
        self, url: str, warn: Callable[[str], None] = lambda message: None, layers: Sequence[Layer] = ()
    ) -> None:
        self.url = url
        self._layers = layers
        self._warn = warn
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UserError(f"no store at {url}: {error}", hint="name another one with --store") from error
        protocol = self._files.protocol
        self._local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)
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
        """Whether the store or a layer has the entry."""
        return self.holds(address) or self.layer_of(address) is not None

    def holds(self, address: Address) -> bool:
        """Whether the store itself has the entry."""
        return self._exists(self._path(address))

    def layer_of(self, address: Address) -> str | None:
        """The title of the layer that provides an entry; None if no layer does or the store itself has it."""
        if self.holds(address):
            return None
        return next((layer.title for layer in self._layers if layer.has(address)), None)

    def has_any(self, kind: str, label: str) -> bool:
        """Whether there may be entries of a kind for a plugin; if False, looking for one is useless."""
        own = self._exists(f"{self._root}/{kind}/{label}")
        return own or any(layer.has_any(kind, label) for layer in self._layers)

    def meta(self, address: Address) -> dict[str, Any] | None:
        """The metadata of an entry; None if it is missing or damaged."""
        if (entry := self._entry(address)) is not None:
            return dict(entry["meta"])
        return next((m for layer in self._layers if (m := layer.meta(address)) is not None), None)

    def stamp(self, address: Address) -> list[int] | str | None:
        """Changes when an entry is written again: its size and time, or the layer that provides it.

        None if there is no entry, or if the file system has no times.
        """
        if self._local:
            with suppress(FileNotFoundError):
                stat = os.stat(self._path(address))
                return [stat.st_size, stat.st_mtime_ns]
        return self.layer_of(address)

    def put_tensors(self, address: Address, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Write tensors (float32 stays float32) under an address."""
        from safetensors.torch import save

        self._put(address, "tensors", save(unshared_copies(tensors)), meta)

    def get_tensors(self, address: Address) -> dict[str, Any] | None:
        """The tensors of an entry, on the CPU; None if it is missing or damaged."""
        from safetensors.torch import load

        if (found := self._parsed(address, load)) is not None:
            return dict(found)
        return next((t for layer in self._layers if (t := layer.tensors(address)) is not None), None)

    def replace_tensors(self, address: Address, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Replace the tensors of an entry; only for the state of unfinished work."""
        earlier = self._payload(address)
        self.put_tensors(address, tensors, meta)
        if earlier is not None and earlier != self._payload(address):
            self._delete(earlier)

    def remove(self, address: Address) -> None:
        """Remove an entry, if it exists; only for the state of unfinished work."""
        for path in filter(None, [self._path(address), self._payload(address)]):
            self._delete(path)

    def put_table(self, address: Address, table: Any, meta: Mapping[str, Any]) -> None:
        """Write a pyarrow table under an address."""
        import pyarrow.parquet

        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        self._put(address, "table", buffer.getvalue(), meta)

    def get_table(self, address: Address) -> Any:
        """The pyarrow table of an entry; None if it is missing or damaged."""
        import pyarrow.parquet

        return self._parsed(
            address, lambda payload: pyarrow.parquet.read_table(io.BytesIO(payload), use_threads=False)
        )

    def samples(self, kind: str, label: str, limit: int) -> Iterator[dict[str, Any]]:
        """The metadata of up to `limit` entries of a kind for a plugin; layers are not searched."""
        folder = f"{self._root}/{kind}/{label}"
        if not self._exists(folder):
            return
        files = self._files.ls(folder, detail=False)
        keys = [Path(file).stem for file in files if str(file).endswith(".json")]
        for key in keys[:limit]:
            if (meta := self.meta(Address(kind, label, key))) is not None:
                yield meta

    def _exists(self, path: str) -> bool:
        return os.path.exists(path) if self._local else bool(self._files.exists(path))

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):  # another run on this store deleted it first
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
        # The checksum in the name keeps two writers of a key from overwriting each other's payload.
        name = f"{address.key}.{checksum[:12]}.{_SUFFIXES[form]}"
        folder = self._folder(address)
        self._files.makedirs(folder, exist_ok=True)
        self._write(f"{folder}/{name}", payload)
        entry = {**vars(address), "payload": name, "sha256": checksum, "meta": dict(meta)}
        self._write(self._path(address), json.dumps(entry, indent=1).encode())

    def _write(self, path: str, content: bytes) -> None:
        if not self._local:
            self._files.pipe_file(path, content)  # object stores write atomically
            return
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        self._files.pipe_file(temporary, content)
        os.replace(temporary, path)

    def _entry(self, address: Address) -> dict[str, Any] | None:
        if not self.holds(address):
            return None
        try:
            entry = json.loads(self._files.cat_file(self._path(address)))
            written_as = Address(entry["kind"], entry["label"], entry["key"])
            # The payload is read and deleted by name, so it must lie beside this file and belong to this key.
            safe = name_fault(entry["payload"]) is None and entry["payload"].startswith(f"{address.key}.")
            if safe and written_as == address and isinstance(entry["meta"], dict):
                return dict(entry)
        except FileNotFoundError:
            return None  # another run has removed it
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # damaged: truncated, of another key, or nested too deeply
        self._set_aside(address)
        return None

    def _parsed(self, address: Address, parse: Callable[[bytes], Any]) -> Any:
        """The parsed payload of an entry; None if the entry is missing or damaged."""
        entry = self._entry(address)
        if entry is None:
            return None
        path = f"{self._folder(address)}/{entry['payload']}"
        payload = bytes(self._files.cat_file(path)) if self._files.isfile(path) else b""
        if hashlib.sha256(payload).hexdigest() == entry.get("sha256"):
            try:
                return parse(payload)
            except MemoryError:  # the entry may be fine
                raise
            except Exception:  # correct checksum, wrong format; each library raises its own exceptions
                pass
        self._set_aside(address)
        return None

    def _set_aside(self, address: Address) -> None:
        self._files.mv(self._path(address), f"{self._path(address)}.damaged")
        self._warn(f"the stored {address} is damaged: set aside, will be computed again")


def unshared_copies(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Copies on the CPU; safetensors refuses tensors that share memory, such as tied weights."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def default_data() -> Path:
    """`BENCH_DATA`, else `~/.cache/bench/data`."""
    return Path(os.environ.get("BENCH_DATA") or Path.home() / ".cache" / "bench" / "data")
