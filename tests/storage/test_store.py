"""The store writes results atomically, and warns of damaged ones."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from benchmark.errors import UserError
from benchmark.storage.store import Address, Store, default_store

ADDRESS = Address("craft", "fgsm", "a" * 64)
OTHER = Address("craft", "fgsm", "b" * 64)


def _tensors(value: float = 0.5) -> dict[str, torch.Tensor]:
    return {"images": torch.full((2, 1, 4, 4), value), "labels": torch.tensor([3, 2**40])}


@pytest.fixture
def warnings() -> list[str]:
    """The warnings of `store`."""
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> Store:
    return Store(str(tmp_path), warnings.append)


def _assert_images(store: Store, value: float = 0.5, address: Address = ADDRESS) -> None:
    found = store.get_tensors(address)
    assert found is not None
    assert torch.equal(found["images"], _tensors(value)["images"])


def _one(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


def test_tensors_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        "images": torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
        "extremes": torch.tensor([0.1, 1e-45, -0.0, float("inf"), float("nan")]),
        "labels": torch.tensor([0, -1, 2**62]),
        "scalar": torch.tensor(7),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    }
    Store(str(tmp_path)).put_tensors(ADDRESS, tensors, {})
    found = Store(str(tmp_path)).get_tensors(ADDRESS)
    assert found is not None
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].contiguous().numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_tables_are_read_back_with_their_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "index": pa.array([0, 1], pa.int64()),
            "wrong": [True, False],
            "psnr": pa.array([0.1, None], pa.float64()),
            "route": ["exact", "clean"],
        }
    )
    Store(str(tmp_path)).put_table(ADDRESS, table, {})
    assert Store(str(tmp_path)).get_table(ADDRESS).equals(table)


def test_metadata_are_read_back(tmp_path: Path) -> None:
    meta = {"seconds": 0.25, "task": {"eps": 0.1, "seed": None}, "text": "8×8, L∞"}
    Store(str(tmp_path)).put_tensors(ADDRESS, _tensors(), meta)
    assert Store(str(tmp_path)).meta(ADDRESS) == meta


def test_an_entry_that_was_never_written_is_missing(store: Store, warnings: list[str]) -> None:
    store.put_tensors(OTHER, _tensors(), {})
    assert not store.has(ADDRESS)
    assert store.get_tensors(ADDRESS) is None
    assert store.get_table(ADDRESS) is None
    assert store.has(OTHER)
    assert warnings == []


def test_kind_and_label_belong_to_the_address(store: Store) -> None:
    store.put_tensors(ADDRESS, _tensors(), {})
    assert not store.has(Address("purify", ADDRESS.label, ADDRESS.key))
    assert not store.has(Address(ADDRESS.kind, "pgd", ADDRESS.key))


@pytest.mark.parametrize("kind_of_store", ["folder", "memory"])
def test_has_any_needs_no_key(tmp_path: Path, kind_of_store: str) -> None:
    store = Store(str(tmp_path) if kind_of_store == "folder" else f"memory://{tmp_path}/any")
    assert not store.has_any(ADDRESS.kind, ADDRESS.label)
    store.put_tensors(ADDRESS, _tensors(), {})
    assert store.has_any(ADDRESS.kind, ADDRESS.label)
    assert not store.has_any(ADDRESS.kind, "pgd")


def test_samples_return_the_metadata_of_a_plugin_up_to_the_limit(store: Store) -> None:
    for i in range(4):
        store.put_tensors(Address("craft", "fgsm", str(i) * 64), _tensors(), {"i": i})
    store.put_tensors(Address("craft", "pgd", "9" * 64), _tensors(), {"i": 9})
    assert sorted(meta["i"] for meta in store.samples("craft", "fgsm", 10)) == [0, 1, 2, 3]
    assert len(list(store.samples("craft", "fgsm", 2))) == 2
    assert list(store.samples("craft", "nothing", 2)) == []


def _flip_byte(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 0xFF]) + content[-2:]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "flipped byte": ("payload", _flip_byte),
    "truncated payload": ("payload", lambda content: content[:-8]),
    "missing payload": ("payload", lambda content: None),
    "truncated JSON": ("json", lambda content: content[:20]),
    "empty JSON": ("json", lambda content: b""),
}
"""The damaged file, and its content after the damage; None if it is deleted."""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("form", ["tensors", "table"])
def test_a_damaged_entry_is_set_aside_with_one_warning_and_missing_until_written_again(
    store: Store, warnings: list[str], tmp_path: Path, damage: str, form: str
) -> None:
    table = pa.table({"wrong": [True, False] * 20})

    def put() -> None:
        if form == "tensors":
            store.put_tensors(ADDRESS, _tensors(), {})
        else:
            store.put_table(ADDRESS, table, {})

    get = store.get_tensors if form == "tensors" else store.get_table
    put()
    before = {path.name for path in tmp_path.rglob("*.json")}
    damaged_file, change = DAMAGES[damage]
    payload = "*.safetensors" if form == "tensors" else "*.parquet"
    path = _one(tmp_path, payload if damaged_file == "payload" else "*.json")
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    assert get(ADDRESS) is None
    (warning,) = warnings
    assert str(ADDRESS) in warning
    assert "damaged" in warning
    assert not store.has(ADDRESS)
    assert not Store(str(tmp_path)).has(ADDRESS)
    assert before == {path.name.removesuffix(".damaged") for path in tmp_path.rglob("*.damaged")}
    assert get(ADDRESS) is None
    assert len(warnings) == 1, "an entry set aside is not warned of again"

    put()
    assert store.has(ADDRESS)
    if form == "tensors":
        assert torch.equal(get(ADDRESS)["images"], _tensors()["images"])
    else:
        assert get(ADDRESS).equals(table)
    assert len(warnings) == 1


def test_a_damaged_entry_does_not_affect_others(store: Store, tmp_path: Path) -> None:
    store.put_tensors(OTHER, _tensors(0.25), {})
    store.put_tensors(ADDRESS, _tensors(), {})
    (tmp_path / f"{ADDRESS}.json").write_text("{")
    assert store.get_tensors(ADDRESS) is None
    _assert_images(store, 0.25, address=OTHER)


@pytest.mark.parametrize("interrupted_write", [1, 2])
def test_an_entry_stays_readable_if_a_second_writer_interrupts_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_write: int
) -> None:
    """The fast writer writes its entry just before the payload, or just before the JSON, of the slow one."""
    warnings: list[str] = []
    slow, fast = (Store(str(tmp_path), warnings.append) for _ in range(2))
    write, calls = slow._write, 0

    def write_late(path: str, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == interrupted_write:
            fast.put_tensors(ADDRESS, _tensors(0.25), {"by": "fast"})
        write(path, content)

    monkeypatch.setattr(slow, "_write", write_late)
    slow.put_tensors(ADDRESS, _tensors(0.75), {"by": "slow"})
    assert calls == 2
    _assert_images(fast, 0.75)
    assert fast.meta(ADDRESS) == {"by": "slow"}
    assert warnings == []


def test_concurrent_writers_leave_one_whole_entry(tmp_path: Path) -> None:
    warnings: list[str] = []
    start = threading.Barrier(8)

    def write(i: int) -> None:
        store = Store(str(tmp_path), warnings.append)
        start.wait()
        for _ in range(10):
            store.put_tensors(ADDRESS, {"value": torch.full((1000,), float(i))}, {"i": i})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))  # raises what any of them raised
    store = Store(str(tmp_path), warnings.append)
    found = store.get_tensors(ADDRESS)
    assert found is not None
    assert torch.equal(found["value"], torch.full((1000,), float(store.meta(ADDRESS)["i"])))
    assert warnings == []
    assert list(tmp_path.rglob("*.tmp")) == []


class _Killed(BaseException):
    """Simulates the end of the process."""


def _die_before_json(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Store._write

    def dying(self: Store, path: str, content: bytes) -> None:
        if path.endswith(".json"):
            raise _Killed
        write(self, path, content)

    monkeypatch.setattr(Store, "_write", dying)


def _die_at_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        if str(target).endswith(".json"):
            raise _Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)


@pytest.mark.parametrize("die", [_die_before_json, _die_at_rename])
def test_an_entry_whose_writer_died_is_missing_and_can_be_written(
    store: Store, warnings: list[str], tmp_path: Path, die: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die(patch)
        with pytest.raises(_Killed):
            Store(str(tmp_path)).put_tensors(ADDRESS, _tensors(), {})
    assert not store.has(ADDRESS)
    assert store.get_tensors(ADDRESS) is None
    assert list(store.samples(ADDRESS.kind, ADDRESS.label, 10)) == []
    store.put_tensors(ADDRESS, _tensors(), {})
    assert store.get_tensors(ADDRESS) is not None
    assert warnings == []


def test_an_entry_stays_readable_while_a_second_writer_dies(store: Store) -> None:
    store.put_tensors(ADDRESS, _tensors(0.25), {})
    with pytest.MonkeyPatch.context() as patch:
        _die_before_json(patch)
        with pytest.raises(_Killed):
            store.put_tensors(ADDRESS, _tensors(0.75), {})
    _assert_images(store, 0.25)


def test_nothing_is_pickled(store: Store, tmp_path: Path) -> None:
    store.put_tensors(ADDRESS, _tensors(), {"a": 1})
    store.put_table(OTHER, pa.table({"a": [1]}), {})
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".parquet"}
    json.loads((tmp_path / f"{ADDRESS}.json").read_text(encoding="utf-8"))


def test_a_path_that_cannot_be_a_folder_is_a_user_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        with pytest.raises(UserError) as caught:
            Store(str(place))
        assert f"the store {place} cannot be written" in str(caught.value)
        assert "--store" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_a_user_error(tmp_path: Path) -> None:
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        Store(str(place))


def test_replacing_tensors_removes_the_earlier_payload(store: Store, tmp_path: Path) -> None:
    for value, seconds in ((0.1, 1), (0.2, 2), (0.2, 3)):
        store.replace_tensors(ADDRESS, _tensors(value), {"seconds": seconds})
        found = store.get_tensors(ADDRESS)
        assert found is not None
        assert torch.equal(found["images"], _tensors(value)["images"])
        assert store.meta(ADDRESS) == {"seconds": seconds}
        assert len(list((tmp_path / "craft" / "fgsm").iterdir())) == 2  # one payload, one entry


def test_remove_deletes_the_files_of_one_entry_only(store: Store, tmp_path: Path) -> None:
    store.put_tensors(ADDRESS, _tensors(), {})
    store.put_tensors(OTHER, _tensors(0.1), {})
    store.remove(ADDRESS)
    assert not list(tmp_path.rglob(f"{ADDRESS.key}*"))
    assert store.get_tensors(ADDRESS) is None
    assert store.get_tensors(OTHER) is not None
    store.remove(ADDRESS)  # removing a missing entry is no error


def test_the_store_works_on_other_file_systems() -> None:
    url = f"memory://{ADDRESS.key}/store"
    warnings: list[str] = []
    store = Store(url, warnings.append)
    assert not store.has(ADDRESS)
    store.put_tensors(ADDRESS, _tensors(), {"a": 1})
    second = Store(url, warnings.append)
    _assert_images(second)
    assert second.meta(ADDRESS) == {"a": 1}
    assert list(second.samples(ADDRESS.kind, ADDRESS.label, 10)) == [{"a": 1}]

    store._files.pipe_file(store._path(ADDRESS), b"{")
    assert store.get_tensors(ADDRESS) is None
    assert not store.has(ADDRESS)
    assert len(warnings) == 1


def test_the_default_store_is_bench_store_or_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BENCH_STORE", raising=False)
    assert default_store() == str(tmp_path / ".cache" / "bench")
    monkeypatch.setenv("BENCH_STORE", "memory://elsewhere")
    assert default_store() == "memory://elsewhere"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Store("~/results").put_tensors(ADDRESS, _tensors(), {})
    assert (tmp_path / "results" / f"{ADDRESS}.json").is_file()


@pytest.mark.parametrize("content", [b"no safetensors", b"", b"\xff" * 64, b"PAR1PAR1"])
def test_a_payload_of_another_format_is_damaged(store: Store, warnings: list[str], content: bytes) -> None:
    """The checksum is right, so only parsing finds the damage."""
    for get in (store.get_tensors, store.get_table):
        store._put(ADDRESS, "tensors", content, {})
        assert get(ADDRESS) is None
        assert not store.has(ADDRESS)
        assert "is damaged: set aside" in warnings.pop()


def test_an_entry_that_is_nested_too_deeply_is_damaged(
    store: Store, warnings: list[str], tmp_path: Path
) -> None:
    store.put_tensors(ADDRESS, _tensors(), {})
    _one(tmp_path, "*.json").write_text("[" * 200_000)
    assert store.meta(ADDRESS) is None
    assert store.get_tensors(ADDRESS) is None
    assert "is damaged: set aside" in warnings[0]
    store.put_tensors(ADDRESS, _tensors(), {})
    assert store.get_tensors(ADDRESS) is not None
