"""Files are written under a temporary name and renamed: links and failures change no other file."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.datasets.reading import file_digests as content
from benchmark.datasets.reading.file_digests import fingerprint_of
from benchmark.errors import UserError
from benchmark.files.tables import write_csv
from benchmark.files.writing import replacing, write_json, write_text
from benchmark.results.outcomes_file import OutcomesFile
from benchmark.zoo.export import write_zoo


def outcomes(path: Path) -> None:
    import pyarrow

    class Stub:
        key, title, class_names = "k", "digits", ()

        @property
        def dataset(self) -> Any:
            return self

        @property
        def outcomes(self) -> Any:
            return pyarrow.table({"label": [1]})

    stub: Any = Stub()
    with OutcomesFile(path) as file:
        file.add(stub, stub)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "new"),
    "csv": lambda path: write_csv(path, ["a"], [{"a": 1}]),
    "json": lambda path: write_json(path, {}),
    "outcomes": outcomes,
}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("mine")
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_a_prepared_link_is_not_followed(name: str, tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "got"
    folder.mkdir()
    path = folder / "file"
    path.symlink_to(victim)
    (folder / f".file.{os.getpid()}.tmp").symlink_to(victim)
    WRITERS[name](path)
    assert victim.read_text() == "mine"
    assert path.is_file()
    assert not path.is_symlink()
    assert len(list(folder.iterdir())) == 2


def test_an_existing_temporary_file_is_not_opened(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "known")
    (tmp_path / ".file.known.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "file", "new")
    assert victim.read_text() == "mine"


def test_a_write_that_fails_leaves_the_earlier_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(KeyError):
        write_csv(path, ["a"], [{"a": 1}, {}])
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udc80")

    def half() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "earlier"


def test_an_interrupted_run_leaves_no_outcomes(tmp_path: Path) -> None:
    import pyarrow

    cell: Any = type("Cell", (), {"key": "k", "dataset": type("D", (), {"title": "t", "class_names": ()})})
    result: Any = type("Result", (), {"outcomes": pyarrow.table({"label": [1]})})

    def interrupted() -> None:
        with OutcomesFile(tmp_path / "outcomes.parquet") as file:
            file.add(cell, result)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_an_archive_that_fails_leaves_nothing(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "zoo").mkdir()
    place = tmp_path / "zoo" / "zoo.tar"
    (tmp_path / "zoo" / f".zoo.tar.{os.getpid()}.tmp").symlink_to(victim)

    def offered() -> Iterator[str]:
        yield "left out"

    with pytest.raises(UserError, match="nothing to export"):
        list(write_zoo(place, offered()))
    assert victim.read_text() == "mine"
    assert not place.exists()
    assert not tarfile.is_tarfile(victim)


def test_the_lock_of_a_zoo_follows_no_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match="leads out of"):
        list(write_zoo(tmp_path / "zoo", iter(["left out"])))
    assert victim.read_text() == "mine"


def test_a_cached_fingerprint_follows_no_link(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_LARGE", 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    image = tmp_path / "image"
    image.write_bytes(b"pixels")
    whole = fingerprint_of({"a": image})
    (memory,) = (tmp_path / ".cache" / "bench" / "fingerprints").iterdir()
    memory.unlink()
    memory.with_name(f"{memory.name}.{os.getpid()}.tmp").symlink_to(victim)
    assert fingerprint_of({"a": image}) == whole
    assert victim.read_text() == "mine"
    assert memory.is_file()
