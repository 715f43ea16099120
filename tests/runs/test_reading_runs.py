"""Reading an untrusted run or published rows runs no code that comes with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import benchmark
from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.publishing.board_files import RUNS
from benchmark.publishing.published_run import Run
from studies import REPOSITORY

TRACE = 'from pathlib import Path\nPath("harmed").touch()\n'
NETS = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
PLUGIN = """
from benchmark.plugins.plugin import Config
from benchmark.api.defense import Defense, defense

@defense("left-alone")
class LeftAlone(Defense[Config]):
    '''Does nothing.'''

    def purify(self, x, noise):
        return x
"""


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def whole(result: Result) -> str:
    return result.output + str(result.exception or "")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that needed a factory and a plugin file; both are beside its run.json."""
    folder = tmp_path_factory.mktemp("strange")
    (folder / "got").mkdir()
    (folder / "got" / "nets.py").write_text(NETS)
    (folder / "own.py").write_text(PLUGIN)
    grid = {
        "name": "strange",
        "datasets": [{"name": "digits", "n": 4}],
        "targets": [{"name": "module", "factory": "got/nets.py:make"}],
        "defenses": ["identity", "left-alone"],
        "attacks": [{"name": "fgsm", "eps": 0.1}],
        "threats": ["black-box"],
    }
    before = os.getcwd()
    os.chdir(folder)
    try:
        options: dict[str, Any] = {"plugins": ["own.py"], "trust": ["got/nets.py"], "store": "store"}
        benchmark.run(grid, out="got", device="cpu", **options)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def current_folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unpacked run as the current folder; its code leaves the file `harmed` if it runs."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_STORE", "store")
    mark = f"{TRACE}# {tmp_path}\n"  # a file of the same content is imported once
    for path in ("got/nets.py", "own.py"):
        Path(path).write_text(mark + Path(path).read_text())
    for path in ("got/own.py", "got/conftest.py", "nets.py"):
        Path(path).write_text(mark)
    return tmp_path


def key() -> str:
    return str(pd.read_csv("got/records.csv")["key"][0])


def test_a_report_without_the_code_has_tables_and_names_the_missing_options() -> None:
    made = bench("report", "got")
    assert made.exit_code == 0, whole(made)
    page = Path("got/report.html").read_text(encoding="utf-8")
    for text in (page, made.output):
        assert "eft out" in text
        assert "--plugin PATH/TO/own.py" in text
    assert 'id="left-out"' in page
    assert "data:image/png" not in page
    assert not Path("harmed").exists()


def test_a_report_names_each_missing_option() -> None:
    half = bench("report", "got", "--plugin", "own.py")
    assert "repeat the command with --trust got/nets.py" in half.output
    assert "own.py" not in half.output
    full = bench("report", "got", "--plugin", "own.py", "--trust", "got/nets.py")
    assert "eft out" not in full.output
    page = Path("got/report.html").read_text(encoding="utf-8")
    assert 'id="left-out"' not in page
    assert Path("harmed").exists()  # the options allow it


@pytest.mark.parametrize("command", ["judge", "export"])
def test_commands_that_need_the_code_stop_and_name_the_options(command: str) -> None:
    save_file({"images": torch.zeros(4, 1, 28, 28)}, "images.safetensors")
    more = {
        "judge": ["--images", "images.safetensors", "--origin", "me"],
        "export": ["--out", "outside"],
    }[command]
    refused = bench(command, "got", "--cell", key(), *more)
    assert refused.exit_code != 0
    assert "--plugin PATH/TO/own.py" in whole(refused)
    assert "--trust got/nets.py" in whole(bench(command, "got", "--cell", key(), *more, "--plugin", "own.py"))
    assert not Path("outside").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["tables", "got"],
        ["compare", "got", "--paper", "ape-gan"],
        ["publish", "got", "--plugin", "own.py", "--board", "board"],
        ["doctor"],
        ["list"],
        ["check", "identity"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_other_commands_run_nothing_either(arguments: list[str]) -> None:
    bench(*arguments)
    assert not Path("harmed").exists()


def test_from_python_nothing_runs_either() -> None:
    assert len(benchmark.load("got")) == 2
    with pytest.raises(UserError, match=r"--plugin PATH/TO/own\.py"):
        benchmark.export("got", key())
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("grid", "got/evil.yaml"),
        ("grid", ["x"]),
        ("only", ["x"]),
        ("only", {"target": 5}),
        ("sanity", "wild"),
        ("plugins", ["own.py"]),
        ("plugins", {"own.py": 3}),
        ("trust", ["got/nets.py"]),
        ("command", ["bench", "run", "--plugin", "own.py", "--trust", "got/nets.py"]),
    ],
)
def test_a_run_json_is_never_consent(key: str, value: object) -> None:
    metadata = json.loads(Path("got/run.json").read_text())
    Path("got/run.json").write_text(json.dumps(metadata | {key: value}))
    made = bench("report", "got")
    assert made.exit_code == 0, whole(made)
    assert "left out" in made.output
    assert not Path("harmed").exists()


@pytest.mark.parametrize("folder", ["a\0b", "\ud800", 3, ["x"]])
def test_a_folder_that_is_no_path_is_refused(folder: object) -> None:
    metadata = json.loads(Path("got/run.json").read_text())
    Path("got/run.json").write_text(json.dumps(metadata | {"grid_folder": folder}))
    made = bench("report", "got")
    assert made.exit_code == 0, whole(made)
    assert "`grid_folder`" in made.output
    refused = bench("export", "got", "--cell", key(), "--out", "outside")
    assert isinstance(refused.exception, UserError)
    assert "is no path" in str(refused.exception)


def test_a_run_json_nested_too_deeply_is_refused() -> None:
    Path("got/run.json").write_text('{"grid":' + "[" * 200_000)
    refused = bench("report", "got")
    assert isinstance(refused.exception, UserError)
    assert "is not the run.json of a run" in str(refused.exception)


def test_a_run_stores_the_folder_of_relative_paths_only_if_it_has_some(current_folder: Path) -> None:
    """With this folder they are found again from any current folder."""
    from benchmark.publishing.reproduce import reproduce

    metadata = json.loads(Path("got/run.json").read_text())
    assert not {"files", "grid_folder"} & set(metadata)
    (current_folder / "home").mkdir()
    weights = {"1.weight": torch.zeros(10, 784), "1.bias": torch.zeros(10)}
    save_file(weights, "home/w.safetensors")
    target = {"name": "module", "factory": str(current_folder / "got" / "nets.py") + ":make"}
    grid: dict[str, Any] = metadata["grid"] | {"name": "filed", "defenses": ["identity"]}
    options: dict[str, Any] = {"device": "cpu", "trust": ["got/nets.py"], "store": "store"}

    def made(path: Path) -> dict[str, Any]:
        targets = [target | {"weights": str(path)}]
        Path("home/grid.json").write_text(json.dumps(grid | {"targets": targets}))
        benchmark.run("home/grid.json", out="filed", **options)
        return dict(json.loads(Path("filed/run.json").read_text()))

    absolute = made(current_folder / "home" / "w.safetensors")
    assert absolute["files"] == ["target module: weights"]
    assert "grid_folder" not in absolute
    relative = made(Path("w.safetensors"))
    assert relative["grid_folder"] == "../home"
    board = _published(current_folder / "board", Run(Path("filed")), Path("own.py"))
    # the copy of the run finds the folder by the same relative path
    (current_folder / "board" / RUNS / "home").symlink_to(current_folder / "home")
    (row,) = reproduce(board, 1, 0, data=None, plugins=[Path("own.py")], **options)
    assert row.verdict == "same"


def test_modules_in_the_current_folder_are_not_imported(current_folder: Path) -> None:
    """Runs `python -m benchmark` in the folder of the untrusted run."""
    folder = current_folder / "got"
    for name in ("json", "attacks", "defenses", "targets", "secrets", "nets", "timm", "typer", "conftest"):
        (folder / f"{name}.py").write_text(TRACE)
    info = folder / "evil-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[bench.defenses]\nidle = nets:make\n")
    command = [sys.executable, "-m", "benchmark", "report", str(current_folder / "got")]
    # as with an installed package, its place on the path comes after the current folder
    path = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    made = subprocess.run(command, cwd=folder, env=os.environ | path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "left out" in made.stderr
    assert not (folder / "harmed").exists()


def test_plugins_beside_a_published_row_are_no_consent(tmp_path: Path) -> None:
    """`verify --reproduce` runs only code that the user names."""
    from benchmark.publishing.reproduce import reproduce

    run, board = Run(Path("got")), tmp_path / "board"
    file = _published(board, run, Path("own.py"))
    options: dict[str, Any] = {"data": None, "store": None, "device": "cpu"}
    with pytest.raises(UserError) as caught:
        list(reproduce(file, 1, 0, plugins=[], **options))
    kept = board / RUNS / run.name / "plugins" / "own.py"
    assert f"repeat the command with --plugin {kept}" in str(caught.value)
    assert not Path("harmed").exists()
    with pytest.raises(UserError, match=r"--trust got/nets\.py"):
        list(reproduce(file, 1, 0, plugins=[kept], **options))


def _published(board: Path, run: Run, plugin: Path) -> Path:
    """A board with the rows of a run, published without checks."""
    from benchmark.publishing.board_files import file_name, read_rows, write_board
    from benchmark.results.columns import LEADERBOARD_COLUMNS as OF_A_RUN

    rows, _ = read_rows(run.folder / "leaderboard.csv", OF_A_RUN)
    more = {"explained": None, "protocol": "x", "run": run.name, "commit": "0" * 40, "key": "x"}
    shutil.copytree(run.folder, board / RUNS / run.name)
    write_board(board_file := board / file_name(rows[0]), [row | more for row in rows])
    (board / RUNS / run.name / "plugins").mkdir()
    shutil.copyfile(plugin, board / RUNS / run.name / "plugins" / plugin.name)
    return board_file
