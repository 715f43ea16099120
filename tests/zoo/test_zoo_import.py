"""`bench zoo import` checks a zoo as a whole; if anything is wrong, it names it and writes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from benchmark.cli.main import main
from benchmark.errors import UserError
from tests.zoo.zoos import GRID, bench, export, metrics, missing_trainings, run, swap_weights

Members = dict[str, bytes]
Change = Callable[[Members, dict[str, Any]], Any]
Refusal = Callable[[object], str]


@pytest.fixture(scope="module")
def exported(constructed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trainings of a finished run as `zoo.tar`, as `zoo.zip` and in `zoo`."""
    folder = tmp_path_factory.mktemp("exported")
    run(GRID, folder, [constructed])
    for name in ("zoo.tar", "zoo.zip", "zoo"):
        export(folder, constructed, folder / name)
    return folder


@pytest.fixture
def members(exported: Path) -> Members:
    with zipfile.ZipFile(exported / "zoo.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Imports a zoo, asserts a refusal with exit status 2 and no new files, and returns the message."""

    def refuse(place: object) -> str:
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

    return refuse


@pytest.fixture(params=["zoo.tar", "zoo.zip"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The path of an archive to be written."""
    return tmp_path / request.param


def write_archive(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
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


@pytest.mark.parametrize("name", ["zoo.tar", "zoo.zip", "zoo"])
def test_imported_trainings_are_not_trained_again(
    name: str, exported: Path, constructed: Path, tmp_path: Path
) -> None:
    done = bench("import", exported / name, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.output
    assert missing_trainings(GRID, tmp_path / "store", [constructed])[0] == 0
    log = run(GRID, tmp_path, [constructed])
    assert not list((tmp_path / "store").glob("checkpoint"))
    assert metrics(tmp_path / "out").equals(metrics(exported / "out"))
    assert log.warnings == []
    again = bench("import", exported / name, "--store", tmp_path / "store")
    assert again.output.count("is already in the store") == 2


def test_imported_trainings_can_be_exported_again(exported: Path, constructed: Path, tmp_path: Path) -> None:
    bench("import", exported / "zoo.tar", "--store", tmp_path / "store")
    run(GRID, tmp_path, [constructed])
    export(tmp_path, constructed, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (exported / "zoo.tar").read_bytes()


def test_an_archive_is_imported_from_a_url(exported: Path, constructed: Path, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/zoo.zip", (exported / "zoo.zip").read_bytes())
    assert bench("import", f"{url}/zoo.zip", "--store", tmp_path / "store").exit_code == 0
    assert missing_trainings(GRID, tmp_path / "store", [constructed])[0] == 0


def payload_of(members: Members) -> str:
    return next(name for name in members if name.startswith("shift"))


def record_of(index: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = next(record for record in index["trainings"] if record["label"] == "shift")
    return record


def update(**fields: Any) -> Change:
    """A change of fields of the record of `shift`."""
    return lambda members, index: record_of(index).update(fields)


def flip_byte(members: Members, index: dict[str, Any]) -> None:
    content = members[payload_of(members)]
    members[payload_of(members)] = content[:-1] + bytes([content[-1] ^ 1])


def pickle_weights(members: Members, index: dict[str, Any]) -> None:
    """Pickled weights with the right checksum and size."""
    content = members[payload_of(members)] = pickle.dumps({"amount": 0.0})
    record_of(index).update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def escape_by_label(members: Members, index: dict[str, Any]) -> None:
    record = record_of(index)
    record["label"] = record["task"]["defense"]["name"] = "../../escaped"


def rename_file(members: Members, index: dict[str, Any]) -> None:
    members["other.safetensors"] = members.pop(payload_of(members))


CHANGES: dict[str, tuple[Change, str]] = {
    "flipped byte": (flip_byte, "shift-"),
    "renamed file": (rename_file, "other.safetensors"),
    "other key": (update(key="0" * 64), "key does not follow"),
    "other plugin": (update(label="identity"), "not of plugin identity"),
    "swapped weights": (lambda _, index: swap_weights(index["trainings"]), "weights of another training"),
    "pickled weights": (pickle_weights, "shift-"),
    "pickle added": (lambda members, _: members.update({"weights.pt": pickle.dumps(0.0)}), "weights.pt"),
    "path in files": (update(files=["../escaped.safetensors"]), "../escaped.safetensors"),
    "path in label": (escape_by_label, "../../escaped"),
    "path in kind": (update(kind="../escaped"), "kind"),
    "unknown field": (update(hook="os.system"), "hook"),
    "repeated training": (lambda _, index: index["trainings"].append(record_of(index)), "named twice"),
    "too many bytes": (update(bytes=10**12), "bytes"),
    "escape sequence": (update(licence="\x1b[2J"), "unprintable"),
    "other format": (lambda _, index: index.update(format=7), "format"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_zoo_with_any_fault_is_refused_as_a_whole(
    change: str, archive: Path, members: Members, refusal: Refusal
) -> None:
    index = json.loads(members["index.json"])
    apply, message = CHANGES[change]
    apply(members, index)
    members["index.json"] = json.dumps(index).encode()
    assert message in refusal(write_archive(archive, members.items()))


@pytest.mark.parametrize(
    "name", ["../escaped", "/tmp/escaped", "folder/escaped", "..", ".hidden", "a\\b", "a:b", "a\x1b"]
)
def test_a_member_without_a_plain_name_is_refused(
    name: str, archive: Path, members: Members, refusal: Refusal
) -> None:
    write_archive(archive, [*members.items(), (name, b"content")])
    assert "not a plain file name" in refusal(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_member_is_refused(archive: Path, members: Members, refusal: Refusal) -> None:
    name = payload_of(members)
    write_archive(archive, [*members.items(), (name, members[name])])
    assert "2 times" in refusal(archive)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_an_irregular_member_of_a_tar_is_refused(
    kind: bytes, members: Members, tmp_path: Path, refusal: Refusal
) -> None:
    archive = write_archive(tmp_path / "zoo.tar", members.items())
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("link.safetensors")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    assert "not a regular file" in refusal(archive)


def test_a_link_in_a_zip_or_a_folder_is_refused(members: Members, tmp_path: Path, refusal: Refusal) -> None:
    archive = write_archive(tmp_path / "zoo.zip", members.items())
    with zipfile.ZipFile(archive, "a") as opened:
        link = zipfile.ZipInfo("link.safetensors")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
    assert "link.safetensors" in refusal(archive)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
        os.symlink(tmp_path / name, folder / name)
    assert "index.json is not a regular file" in refusal(folder)


def test_a_small_archive_that_unpacks_to_a_large_file_is_refused(
    members: Members, tmp_path: Path, refusal: Refusal
) -> None:
    archive = tmp_path / "zoo.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("index.json", members["index.json"])
        opened.writestr("bomb.safetensors", bytes(30 * 10**6))
    assert archive.stat().st_size < 10**5
    assert "bomb.safetensors is too large" in refusal(archive)


@pytest.mark.parametrize("content", [b"", b"not an archive" * 100])
def test_an_invalid_archive_is_refused(content: bytes, archive: Path, refusal: Refusal) -> None:
    archive.write_bytes(content)
    assert archive.name in refusal(archive)


def test_a_truncated_archive_is_refused(archive: Path, exported: Path, refusal: Refusal) -> None:
    content = (exported / archive.name).read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert archive.name in refusal(archive)


def test_a_failed_export_leaves_no_partial_zoo(
    exported: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("no more")

    monkeypatch.setattr("benchmark.zoo.export.measure_gate", fail)
    options = ["--store", exported / "store", "--plugin", constructed]
    for name in ("half.tar", "half"):
        assert bench("export", exported / "out", *options, "--to", tmp_path / name).exit_code != 0
        assert not (tmp_path / name / "index.json").exists()
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*"))
    assert not (tmp_path / "half.tar").exists()
