"""The doubt `undeclared-file`, in runs and in `bench check`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import benchmark
from benchmark.cli.main import app
from benchmark.plugins.opened_files.records import PLUGIN_RECORDS
from studies import REPOSITORY

Run = Callable[..., dict[str, bool]]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tests/plugin_files/undeclared.py` with its file beside it, at a path that is new to this process."""
    _write(tmp_path / "plugins" / "weights.npy")
    path = tmp_path / "plugins" / "undeclared.py"
    path.write_bytes(
        (REPOSITORY / "tests" / "plugin_files" / "undeclared.py").read_bytes() + f"\n# {tmp_path}\n".encode()
    )
    monkeypatch.chdir(tmp_path)
    return path


def _write(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.array([0.9]))


@pytest.fixture
def run(plugin: Path, constructed: Path, tmp_path: Path) -> Run:
    def run(by: str = "defense", **keys: Any) -> dict[str, bool]:
        """Whether each row has the doubt, by its defense or another column."""
        records = frame(plugin, constructed, tmp_path, **keys)
        assert set(records["status"]) == {"ok"}
        return {row[by]: "undeclared-file" in str(row["flags"]).split() for _, row in records.iterrows()}

    return run


def frame(plugin: Path, constructed: Path, folder: Path, **keys: Any) -> pd.DataFrame:
    grid = {
        "name": "undeclared",
        "datasets": [{"name": "digits", "n": 10}],
        "targets": ["nearest-mean"],
        "source": "target",
        "defenses": ["identity"],
        "attacks": [{"name": "fgsm", "eps": 0.1}],
        "threats": ["black-box"],
    }
    folder = folder / "run"
    return benchmark.run(
        grid | keys, out=folder, store=str(folder.parent / "store"), plugins=[plugin, constructed]
    )


DEFENSES = ["reads-when-built", "reads-when-purifying", "reads-when-trained"]
RAISED = dict.fromkeys(DEFENSES, True) | {"identity": False}


def test_only_a_defense_that_opens_a_file_has_the_doubt(run: Run) -> None:
    assert run(defenses=["identity", *DEFENSES]) == RAISED


def test_a_run_from_the_store_alone_raises_the_doubt_too(run: Run, plugin: Path) -> None:
    run(defenses=["identity", *DEFENSES])
    (plugin.parent / "weights.npy").unlink()  # nothing can open it now
    _forget()
    assert run(defenses=["identity", *DEFENSES]) == RAISED


def test_a_stored_training_raises_the_doubt_in_another_process(run: Run, plugin: Path) -> None:
    run(defenses=["reads-when-trained"])
    (plugin.parent / "weights.npy").unlink()
    _forget()
    attacks = [{"name": "fgsm", "eps": 0.2}]
    assert run(defenses=["reads-when-trained"], attacks=attacks) == {"reads-when-trained": True}


def _forget() -> None:
    """Empty the records of opened files."""
    PLUGIN_RECORDS.clear()


def test_all_configurations_have_the_doubt_whichever_read_the_file(run: Run) -> None:
    defenses = [{"name": "reads-when-purifying", "scale": scale} for scale in (1.0, 0.5, 0.25)]
    found = run(by="defense_config", defenses=defenses)
    assert list(found.values()) == [True, True, True]


def test_targets_attacks_and_data_sets_raise_the_doubt_too(run: Run) -> None:
    assert run(by="target", targets=["nearest-mean", "reads-in-training"]) == {
        "nearest-mean": False,
        "reads-in-training": True,
    }
    attacks = [{"name": "fgsm", "eps": 0.1}, "reads-when-crafting"]
    assert run(by="attack", attacks=attacks) == {"fgsm": False, "reads-when-crafting": True}
    datasets = [{"name": "digits", "n": 10}, {"name": "reads-beside", "n": 10}]
    assert run(by="dataset", datasets=datasets) == {"digits": False, "reads-beside": True}


def test_a_row_with_the_doubt_has_no_rank_and_shows_no_private_path(
    plugin: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    attacks = [{"name": "pgd", "eps": 0.1, "steps": 10}]
    frame(plugin, constructed, tmp_path, defenses=["identity", "reads-when-built"], attacks=attacks)
    board = pd.read_csv(tmp_path / "run" / "leaderboard.csv").set_index("defense")
    assert pd.isna(board.loc["reads-when-built", "rank"])
    assert "undeclared-file" in board.loc["reads-when-built", "flags"]
    entries = [path.read_text() for path in (tmp_path / "store").rglob("*.json")]
    assert any("weights.npy" in entry for entry in entries)
    assert not any(str(plugin.parent) in entry for entry in entries)


def test_a_run_warns_of_the_file(plugin: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "datasets: [{name: digits, n: 10}]\ntargets: [reads-in-training]\ndefenses: [identity]\n"
        "attacks: [{name: fgsm, eps: 0.1}]\nthreats: [black-box]\n"
    )
    arguments = ["run", "--grid", str(grid), "--plugin", str(plugin), "--out", "out", "--store", "store"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "target reads-in-training: plugins/weights.npy is used and is no parameter" in done.output


def _check(name: str, plugin: Path) -> str:
    done = CliRunner().invoke(app, ["check", name, "--plugin", str(plugin)])
    assert done.exit_code == 1, done.output
    return " ".join(done.output.split())


@pytest.mark.parametrize("name", DEFENSES)
def test_bench_check_fails_and_shows_the_declaration_to_write(name: str, plugin: Path) -> None:
    output = _check(name, plugin)
    assert "opens plugins/weights.npy, which is not a parameter" in output
    assert '`weights: FilePath = file("plugins/weights.npy")`' in output


READERS = {
    "safetensors": "from safetensors.torch import load_file\nREAD = load_file",
    "torch.jit.load": "READ = torch.jit.load",
    "torch.export.load": "READ = torch.export.load",
    "torch.from_file": "READ = lambda path: torch.from_file(path, size=8, dtype=torch.uint8)",
    "torchvision.io": "from torchvision.io import read_file\nREAD = read_file",
    "pyarrow": "from pyarrow.parquet import read_table\nREAD = read_table",
    "torch.load": "READ = torch.load",
    "open": "READ = lambda path: open(path, 'rb').read()",
    "a program": "import subprocess\nREAD = lambda path: subprocess.run(['cat', path], capture_output=True)",
}

BODY = """
import torch
from benchmark.plugins.plugin import Config
from benchmark.api.defense import Defense, defense
{reader}

@defense("subject")
class Subject(Defense[Config]):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        try:
            READ("kept.bin")
        except Exception:  # reading it may fail
            pass

    def purify(self, x, noise):
        return x * 0.5
"""


@pytest.mark.parametrize("reader", READERS)
def test_each_reader_is_found_by_bench_check_and_flagged(
    reader: str, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept.bin").write_bytes(bytes(range(64)))
    plugin = tmp_path / "subject.py"
    plugin.write_text(BODY.format(reader=READERS[reader]) + f"\n# {tmp_path}\n")
    assert ("uses the program cat" if reader == "a program" else "opens kept.bin") in _check(
        "subject", plugin
    )
    records = frame(plugin, constructed, tmp_path, defenses=["subject"])
    assert "undeclared-file" in records["flags"][0].split()


def test_a_file_that_is_opened_at_import_is_named(tmp_path: Path, constructed: Path) -> None:
    (tmp_path / "kept.bin").write_bytes(bytes(8))
    reader = f"open({str(tmp_path / 'kept.bin')!r}, 'rb').close()\nREAD = len"
    plugin = tmp_path / "subject.py"
    plugin.write_text(BODY.format(reader=reader))
    assert f"opens {tmp_path / 'kept.bin'}" in _check("subject", plugin)
    records = frame(plugin, constructed, tmp_path, defenses=["subject", "identity"])
    assert ["undeclared-file" in str(flags).split() for flags in records["flags"]] == [True, False]
