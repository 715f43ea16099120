"""Zoos from outside: all is checked first, and whatever is wrong is named and nothing written."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from benchmark.cli import main
from benchmark.errors import UserError
from tests.zoos import GRID, bench, figures, run, to_train

Members = dict[str, bytes]
Change = Callable[[Members, dict[str, Any]], None]


@pytest.fixture(scope="module")
def exported(constructed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trainings of a finished run as `zoo.tar` and `zoo.zip`."""
    folder = tmp_path_factory.mktemp("exported")
    run(GRID, folder / "store", folder / "out", [constructed])
    options = ["--store", folder / "store", "--plugin", constructed]
    for name in ("zoo.tar", "zoo.zip", "zoo"):
        assert bench("export", folder / "out", *options, "--to", folder / name).exit_code == 0
    return folder


@pytest.fixture
def members(exported: Path) -> Members:
    with zipfile.ZipFile(exported / "zoo.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(path: Path, members: list[tuple[str, bytes]]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content)
        return path
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _refused(
    place: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Import, expect one sentence and exit status 2, and nothing new on the disk; return the sentence."""
    before = sorted(tmp_path.parent.rglob("*"))
    arguments = ["bench", "zoo", "import", str(place), "--store", str(tmp_path / "store")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit_info:
        main()
    message = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert "Traceback" not in message
    assert sorted(tmp_path.parent.rglob("*")) == before
    return message


@pytest.mark.parametrize("name", ["zoo.tar", "zoo.zip", "zoo"])
def test_what_was_exported_and_imported_need_not_be_trained(
    name: str, exported: Path, constructed: Path, tmp_path: Path
) -> None:
    done = bench("import", exported / name, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.output
    assert to_train(GRID, tmp_path / "store", [constructed])[0] == 0
    notes = run(GRID, tmp_path / "store", tmp_path / "out", [constructed])
    assert not list((tmp_path / "store").glob("checkpoint"))
    assert figures(tmp_path / "out").equals(figures(exported / "out"))
    assert notes.warnings == []
    again = bench("import", exported / name, "--store", tmp_path / "store")
    assert again.output.count("is in the store already") == 2


def test_what_was_imported_can_be_exported_again(exported: Path, constructed: Path, tmp_path: Path) -> None:
    bench("import", exported / "zoo.tar", "--store", tmp_path / "store")
    run(GRID, tmp_path / "store", tmp_path / "out", [constructed])
    options = ["--store", tmp_path / "store", "--plugin", constructed, "--to", tmp_path / "again.tar"]
    assert bench("export", tmp_path / "out", *options).exit_code == 0
    assert (tmp_path / "again.tar").read_bytes() == (exported / "zoo.tar").read_bytes()


def test_an_archive_is_imported_from_a_url(exported: Path, constructed: Path, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/zoo.zip", (exported / "zoo.zip").read_bytes())
    assert bench("import", f"{url}/zoo.zip", "--store", tmp_path / "store").exit_code == 0
    assert to_train(GRID, tmp_path / "store", [constructed])[0] == 0


def _payload_of(members: Members) -> str:
    return next(name for name in members if name.startswith("shift"))


def _record_of(index: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(record for record in index["trainings"] if record["label"] == "shift")
    return found


def _with_checksum(members: Members, index: dict[str, Any], content: bytes) -> None:
    """Put another content in place, with the checksum and size that fit."""
    import hashlib

    members[_payload_of(members)] = content
    record = _record_of(index)
    record["bytes"], record["sha256"] = len(content), hashlib.sha256(content).hexdigest()


def _flip(members: Members, index: dict[str, Any]) -> None:
    name = _payload_of(members)
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


def _rename_file(members: Members, index: dict[str, Any]) -> None:
    members["other.safetensors"] = members.pop(_payload_of(members))


def _rename_training(members: Members, index: dict[str, Any]) -> None:
    _record_of(index)["key"] = "0" * 64


def _rename_plugin(members: Members, index: dict[str, Any]) -> None:
    _record_of(index)["label"] = "identity"


def _rename_other_training(members: Members, index: dict[str, Any]) -> None:
    first, second = index["trainings"]
    for name in ("files", "bytes", "sha256"):
        first[name], second[name] = second[name], first[name]


def _pickle(members: Members, index: dict[str, Any]) -> None:
    _with_checksum(members, index, pickle.dumps({"amount": 0.0}))


def _add_pickle(members: Members, index: dict[str, Any]) -> None:
    members["weights.pt"] = pickle.dumps({"amount": 0.0})


def _escape_by_index(members: Members, index: dict[str, Any]) -> None:
    _record_of(index)["files"] = ["../escaped.safetensors"]


def _escape_by_label(members: Members, index: dict[str, Any]) -> None:
    record = _record_of(index)
    record["label"] = record["task"]["defense"]["name"] = "../../escaped"


def _escape_by_kind(members: Members, index: dict[str, Any]) -> None:
    _record_of(index)["kind"] = "../escaped"


def _unknown_field(members: Members, index: dict[str, Any]) -> None:
    _record_of(index)["hook"] = "os.system"


def _twice(members: Members, index: dict[str, Any]) -> None:
    index["trainings"].append(_record_of(index))


def _too_many_bytes(members: Members, index: dict[str, Any]) -> None:
    _record_of(index)["bytes"] = 10**12


def _escape_sequence(members: Members, index: dict[str, Any]) -> None:
    _record_of(index)["licence"] = "\x1b[2J"


def _no_index(members: Members, index: dict[str, Any]) -> None:
    index.clear()


CHANGES: dict[Change, str] = {
    _flip: "shift-",
    _rename_file: "other.safetensors",
    _rename_training: "key does not follow",
    _rename_plugin: "not one of identity",
    _rename_other_training: "weights of another training",
    _pickle: "shift-",
    _add_pickle: "weights.pt",
    _escape_by_index: "../escaped.safetensors",
    _escape_by_label: "../../escaped",
    _escape_by_kind: "kind",
    _unknown_field: "hook",
    _twice: "named twice",
    _too_many_bytes: "bytes",
    _escape_sequence: "cannot be printed",
    _no_index: "format",
}


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_zoo_with_anything_wrong_is_refused_as_a_whole(
    change: Change,
    suffix: str,
    members: Members,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index = json.loads(members["index.json"])
    change(members, index)
    if index:
        members["index.json"] = json.dumps(index).encode()
    else:
        members["index.json"] = b'{"format": 7}'
    archive = _write(tmp_path / f"zoo{suffix}", list(members.items()))
    assert CHANGES[change] in _refused(archive, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize(
    "name", ["../escaped", "/tmp/escaped", "folder/escaped", "..", ".hidden", "a\\b", "a:b", "a\x1b"]
)
def test_a_member_that_is_no_plain_name_is_refused(
    name: str,
    suffix: str,
    members: Members,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = _write(tmp_path / f"zoo{suffix}", [*members.items(), (name, b"content")])
    assert "no plain file name" in _refused(archive, tmp_path, monkeypatch, capsys)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_a_member_that_is_in_it_twice_is_refused(
    suffix: str,
    members: Members,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = _payload_of(members)
    archive = _write(tmp_path / f"zoo{suffix}", [*members.items(), (name, members[name])])
    assert "2 times" in _refused(archive, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_a_member_of_a_tar_that_is_no_file_is_refused(
    kind: bytes,
    members: Members,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = _write(tmp_path / "zoo.tar", list(members.items()))
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("link.safetensors")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    assert "no regular file" in _refused(archive, tmp_path, monkeypatch, capsys)


def test_a_link_in_a_zip_or_a_folder_is_refused(
    members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = _write(tmp_path / "zoo.zip", list(members.items()))
    with zipfile.ZipFile(archive, "a") as opened:
        link = zipfile.ZipInfo("link.safetensors")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
    assert "link.safetensors" in _refused(archive, tmp_path, monkeypatch, capsys)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
        os.symlink(tmp_path / name, folder / name)
    assert "index.json is no regular file" in _refused(folder, tmp_path, monkeypatch, capsys)


def test_a_small_archive_that_grows_large_is_refused(
    members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "zoo.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("index.json", members["index.json"])
        opened.writestr("bomb.safetensors", bytes(30 * 10**6))
    assert archive.stat().st_size < 10**5
    assert "bomb.safetensors is too large" in _refused(archive, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("name", ["zoo.tar", "zoo.zip"])
@pytest.mark.parametrize("content", [b"", b"not an archive" * 100])
def test_what_is_no_archive_is_refused(
    name: str,
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in _refused(tmp_path / name, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_a_cut_off_archive_is_refused(
    suffix: str,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = (exported / f"zoo{suffix}").read_bytes()
    (tmp_path / f"zoo{suffix}").write_bytes(content[: len(content) // 2])
    assert f"zoo{suffix}" in _refused(tmp_path / f"zoo{suffix}", tmp_path, monkeypatch, capsys)


def test_an_export_that_fails_leaves_nothing_half(
    exported: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("no more")

    monkeypatch.setattr("benchmark.zoo_export.measure_gate", fail)
    options = ["--store", exported / "store", "--plugin", constructed]
    for name in ("half.tar", "half"):
        assert bench("export", exported / "out", *options, "--to", tmp_path / name).exit_code != 0
        assert not (tmp_path / name / "index.json").exists()
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*"))
    assert not (tmp_path / "half.tar").exists()
