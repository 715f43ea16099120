"""Undeclared files that plugins open: each way to open one, and files that do not count."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.resources
import mmap
import os
import platform
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from benchmark.plugins.opened_files import exempt, opened_by, record_import, unwatched, watching
from benchmark.plugins.plugin import Config, Plugin


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(code: Callable[[], object], config: Config | None = None) -> tuple[str, ...]:
    """The names in the record of a plugin that runs this code."""
    plugin = type("Probe", (Plugin,), {"name": "probe"})
    time.sleep(0.03)  # a file written less than a clock tick ago could be the plugin's own
    with watching("defense", plugin, config or Config()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code()
    return opened_by("defense", plugin).names


def _tensors(path: str) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, path)


def _script(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)  # type: ignore[no-untyped-call]


def _exported(path: str) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


def _state(path: str) -> None:
    torch.save({"a": torch.zeros(2)}, path)


def _bytes(path: str) -> None:
    np.zeros(8, np.uint8).tofile(path)


def _array(path: str) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def _image(path: str) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "png")


def _zip(path: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "text")


def _csv(path: str) -> None:
    Path(path).write_text("a\n1\n")


def _json(path: str) -> None:
    Path(path).write_text('{"a": 1}\n')


def _parquet(path: str) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(path)


def _feather(path: str) -> None:
    import pyarrow.feather

    pyarrow.feather.write_feather(pa.table({"a": [1]}), path)


def _arrow(path: str) -> None:
    table = pa.table({"a": [1]})
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write(table)


def _database(path: str) -> None:
    sqlite3.connect(path).execute("create table a (b)")


def _safe_open(path: str) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        file.keys()


def _load_file(path: str) -> None:
    from safetensors.torch import load_file

    load_file(path)


def _numpy_load_file(path: str) -> None:
    from safetensors.numpy import load_file

    load_file(path)


def _torchvision(name: str) -> Callable[[str], object]:
    def read(path: str) -> None:
        import torchvision.io

        getattr(torchvision.io, name)(path)

    return read


def _pyarrow(module: str, name: str) -> Callable[[str], object]:
    def read(path: str) -> None:
        getattr(__import__(module, fromlist=["any"]), name)(path)

    return read


def _mapped(path: str) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content.read(1)


def _descriptor(path: str) -> None:
    with open(os.open(path, os.O_RDONLY)) as file:
        file.read()


def _appended(path: str) -> None:
    with open(path, "a+") as file:
        file.seek(0)
        file.read()


def _in_a_thread(path: str) -> None:
    thread = threading.Thread(target=Path(path).read_bytes)
    thread.start()
    thread.join()


READERS: dict[str, tuple[Callable[[str], object], Callable[[str], object]]] = {
    "open": (_csv, lambda path: open(path).close()),
    "open for more": (_csv, _appended),
    "os.open": (_csv, lambda path: os.close(os.open(path, os.O_RDONLY))),
    "a descriptor": (_csv, _descriptor),
    "pathlib": (_csv, lambda path: Path(path).read_text()),
    "mmap": (_csv, _mapped),
    "zipfile": (_zip, lambda path: zipfile.ZipFile(path).read("a")),
    "sqlite3": (_database, lambda path: sqlite3.connect(path).close()),
    "a thread": (_csv, _in_a_thread),
    "torch.load": (_state, torch.load),
    "torch.load, mapped": (_state, lambda path: torch.load(path, mmap=True)),
    "torch.jit.load": (_script, lambda path: torch.jit.load(path)),  # type: ignore[no-untyped-call]
    "torch.export.load": (_exported, lambda path: torch.export.load(path)),
    "torch.from_file": (_bytes, lambda path: torch.from_file(path, size=8, dtype=torch.uint8)),
    "aten.from_file": (_bytes, lambda path: torch.ops.aten.from_file(path, False, 8, dtype=torch.uint8)),
    "UntypedStorage": (_bytes, lambda path: torch.UntypedStorage.from_file(path, False, 8)),
    "safetensors.safe_open": (_tensors, _safe_open),
    "safetensors.torch": (_tensors, _load_file),
    "safetensors.numpy": (_tensors, _numpy_load_file),
    "numpy.load": (_array, np.load),
    "numpy.load, mapped": (_array, lambda path: np.load(path, mmap_mode="r")),
    "numpy.fromfile": (_bytes, np.fromfile),
    "numpy.memmap": (_bytes, np.memmap),
    "PIL": (_image, lambda path: Image.open(path).load()),
    "torchvision.io.read_image": (_image, _torchvision("read_image")),
    "torchvision.io.read_file": (_image, _torchvision("read_file")),
    "pandas.read_csv": (_csv, pd.read_csv),
    "pandas.read_parquet": (_parquet, pd.read_parquet),
    "pyarrow.parquet.read_table": (_parquet, _pyarrow("pyarrow.parquet", "read_table")),
    "pyarrow.parquet.ParquetFile": (_parquet, _pyarrow("pyarrow.parquet", "ParquetFile")),
    "pyarrow.parquet.read_schema": (_parquet, _pyarrow("pyarrow.parquet", "read_schema")),
    "pyarrow.parquet.read_metadata": (_parquet, _pyarrow("pyarrow.parquet", "read_metadata")),
    "pyarrow.dataset": (_parquet, _pyarrow("pyarrow.dataset", "dataset")),
    "pyarrow.feather": (_feather, _pyarrow("pyarrow.feather", "read_table")),
    "pyarrow.csv": (_csv, _pyarrow("pyarrow.csv", "read_csv")),
    "pyarrow.json": (_json, _pyarrow("pyarrow.json", "read_json")),
    "pyarrow.ipc": (_arrow, _pyarrow("pyarrow.ipc", "open_file")),
    "pyarrow.memory_map": (_csv, _pyarrow("pyarrow", "memory_map")),
    "pyarrow.OSFile": (_csv, _pyarrow("pyarrow", "OSFile")),
    "pyarrow.input_stream": (_csv, _pyarrow("pyarrow", "input_stream")),
}


@pytest.mark.parametrize("reader", READERS)
def test_each_way_to_open_a_file_is_noticed(reader: str, folder: Path) -> None:
    write, read = READERS[reader]
    write("w")
    assert opened(lambda: read("w")) == ("w",)


class Declaring(Config):
    weights: str

    def files(self) -> dict[str, Path]:
        return {"weights": Path(self.weights).absolute()}


@pytest.mark.parametrize("declared", ["w", "link"])
def test_a_declared_file_may_also_be_opened_through_a_link(declared: str, folder: Path) -> None:
    _csv("w")
    os.symlink("w", "link")
    assert opened(lambda: (open("w").close(), open("link").close()), Declaring(weights=declared)) == ()


def test_another_file_beside_a_declared_one_is_named(folder: Path) -> None:
    _csv("w")
    _csv("w2")
    assert opened(lambda: (open("w").close(), open("w2").close()), Declaring(weights="w")) == ("w2",)


def test_a_file_outside_the_current_folder_is_named_without_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _csv("w")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert opened(lambda: open("../w").close()) == ("w",)


def test_files_of_python_and_libraries_and_missing_ones_are_not_named(folder: Path) -> None:
    def code() -> None:
        Path(np.__file__).read_bytes()
        Path("/etc/hostname").exists() and Path("/etc/hostname").read_bytes()
        importlib.resources.files("sklearn").joinpath("__init__.py").read_bytes()
        Path(__file__).read_bytes()  # an imported module's source
        os.listdir(".")
        with pytest.raises(FileNotFoundError):
            Path("absent").read_text()

    assert opened(code) == ()


def test_data_in_a_file_of_python_code_is_named(folder: Path) -> None:
    Path("settings.py").write_text("depth = 3")
    assert opened(lambda: exec(Path("settings.py").read_text(), {})) == ("settings.py",)


def test_files_that_the_plugin_wrote_in_the_same_call_are_not_named(folder: Path) -> None:
    _array("kept.npy")

    def code() -> None:
        _array("best.npy")
        np.load("best.npy")
        _state("best.pt")  # written by compiled code
        torch.load("best.pt")
        np.load("kept.npy")

    assert opened(code) == ("kept.npy",)


def test_files_written_after_a_connection_are_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def code() -> None:
            socket.create_connection(server.getsockname()).close()
            Path("fetched").write_text("content")
            Path("fetched").read_text()

        assert opened(code) == ("fetched",)


def test_programs_and_libraries_that_the_plugin_starts_are_named(folder: Path) -> None:
    def code() -> None:
        subprocess.run([sys.executable, "-c", ""], check=True)
        os.system("true")
        ctypes.CDLL("libm.so.6")

    python = os.path.basename(sys.executable)
    assert opened(code) == (f"the program {python}", "the program true", "the library libm.so.6")


def test_programs_that_python_starts_to_identify_the_machine_are_not_named(folder: Path) -> None:
    def code() -> None:
        with contextlib.suppress(OSError):
            platform._Processor.from_subprocess()  # type: ignore[attr-defined]
        ctypes.util.find_library("m")

    assert opened(code) == ()


def test_a_log_that_the_process_created_is_not_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exempt, "is_temporary", lambda path: False)  # the test folder is temporary

    def code() -> None:
        with open("log", "a+") as file:
            file.write("line\n")

    assert opened(code) == ()
    assert opened(code) == ()


def test_coarse_file_times_do_not_make_an_own_file_undeclared(folder: Path) -> None:
    for _ in range(30):
        plugin = type("Probe", (Plugin,), {"name": "probe"})
        with watching("defense", plugin, Config()):
            _state("own.pt")
            torch.load("own.pt")
        assert opened_by("defense", plugin).names == ()


@pytest.mark.parametrize("place", ["__pycache__/w.npy", "x.dist-info/w.npy", "x.egg-info/w.npy"])
def test_a_folder_name_alone_does_not_make_a_file_a_library_file(place: str, folder: Path) -> None:
    (folder / place).parent.mkdir()
    _csv(place)
    assert opened(lambda: open(place).close()) == (place,)


def test_a_path_through_proc_is_resolved(folder: Path) -> None:
    _csv("w")
    assert opened(lambda: open("/proc/self/cwd/w").close()) == ("w",)


def test_folders_below_run_may_hold_files_of_a_user() -> None:
    assert not exempt.is_library_file("/run/media/somebody/w.npy")
    assert exempt.is_library_file("/run/systemd/resolve/resolv.conf")


def test_the_harness_may_open_files_while_a_plugin_runs(folder: Path) -> None:
    _csv("w")

    def code() -> None:
        with unwatched():
            open("w").close()

    assert opened(code) == ()


def test_a_file_counts_for_the_innermost_plugin(folder: Path) -> None:
    _csv("w")
    time.sleep(0.03)
    inner = type("Inner", (Plugin,), {"name": "inner"})

    def code() -> None:
        with watching("target", inner, Config()):
            open("w").close()

    assert opened(code) == ()
    assert opened_by("target", inner).names == ("w",)


def test_files_that_a_module_opens_at_import_count_for_its_plugins(folder: Path) -> None:
    _csv("w")
    time.sleep(0.03)
    plugin = type("Probe", (Plugin,), {"name": "probe", "__module__": "imported_once"})
    with record_import("imported_once"):
        open("w").close()
    assert opened_by("defense", plugin).names == ("w",)


def test_functions_that_another_module_imported_early_are_wrapped() -> None:
    """In another process, since in this one the readers are wrapped already."""
    code = """
import os, sys, tempfile
from pathlib import Path
from benchmark.plugins.importing import import_file
from benchmark.plugins.opened_files import opened_by, watching
from benchmark.plugins.plugin import Config, Plugin
os.chdir(tempfile.mkdtemp())
Path("early.py").write_text('''
from safetensors import safe_open
from torch.jit import load
from torchvision.io import read_file
from pyarrow.parquet import read_table
''')
for name in ("safe_open", "load", "read_file", "read_table"):
    Path(name).write_text("no content that any of them can read")
early = import_file(Path("early.py"))
class Probe(Plugin):
    name = "probe"
with watching("defense", Probe, Config()):
    for name, more in (("safe_open", ["pt"]), ("load", []), ("read_file", []), ("read_table", [])):
        try:
            getattr(early, name)(name, *more)
        except Exception:
            pass
print(*sorted(opened_by("defense", Probe).names))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["load", "read_file", "read_table", "safe_open"], done.stderr
