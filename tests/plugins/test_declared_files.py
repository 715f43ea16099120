"""Keys depend on the files that parameters name and on the code of plugins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import benchmark
from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.plugins.opened_files.records import PLUGIN_RECORDS
from studies import REPOSITORY

HEAD = """
from functools import cache
from pathlib import Path
import numpy as np
from pydantic import PrivateAttr
from benchmark.plugins.plugin import Config, FilePath, file, infer
from benchmark.api.defense import Defense, defense
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of plugin files, also the current folder; modules in it are unloaded afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run(folder: Path, constructed: Path, **keys: Any) -> pd.DataFrame:
    grid = {
        "name": "declared",
        "datasets": [{"name": "digits", "n": 10}],
        "targets": ["nearest-mean"],
        "source": "target",
        "defenses": ["subject"],
        "attacks": [{"name": "fgsm", "eps": 0.1}],
        "threats": ["black-box"],
    }
    plugins = [*sorted(folder.glob("plugin*.py")), constructed]
    return benchmark.run(grid | keys, out=folder / "run", store=str(folder / "store"), plugins=plugins)


def flagged(records: pd.DataFrame, by: str = "defense") -> dict[str, bool]:
    assert set(records["status"]) == {"ok"}, records["error"]
    return {row[by]: "undeclared-file" in str(row["flags"]).split() for _, row in records.iterrows()}


def _as_in_another_process(folder: Path) -> None:
    """Empty the store and the records of opened files."""
    shutil.rmtree(folder / "store")
    PLUGIN_RECORDS.clear()


def plugin(folder: Path, body: str, name: str = "plugin.py") -> None:
    (folder / name).write_text(f"{HEAD}{body}\n# {folder}\n")


def test_cheaper_parameters_with_another_file_are_refused(beside: Path, constructed: Path) -> None:
    """The key contains only the file of the full parameters."""
    np.save("full.npy", np.array([0.9]))
    np.save("other.npy", np.array([0.1]))
    plugin(
        beside,
        """
class WeightsConfig(Config):
    weights: FilePath = file(trained=False)

@defense("subject")
class Subject(Defense[WeightsConfig]):
    @classmethod
    def in_attack(cls, config):
        other = str(Path(config.weights).with_name("other.npy"))
        return type(config)(**{**config.model_dump(), "weights": other})

    def purify(self, x, noise):
        return x * float(np.load(self.config.weights)[0])
""",
    )
    with pytest.raises(UserError, match="in_attack changes a file"):
        run(beside, constructed, defenses=[{"name": "subject", "weights": str(beside / "full.npy")}])


SCALED = """
@defense("{name}")
class {cls}(Defense[Config]):
    def purify(self, x, noise):
        return x * {factor}
"""


def test_importing_a_module_by_name_raises_the_doubt(beside: Path, constructed: Path) -> None:
    """The fingerprint follows only import statements."""
    (beside / "params_rv.py").write_text("SCALE = 0.9\n")
    (beside / "stated.py").write_text("SCALE = 0.9\n")
    loaded = 'importlib.import_module("params_rv").SCALE'
    plugin(
        beside, "import importlib\nimport stated\n" + SCALED.format(name="subject", cls="A", factor=loaded)
    )
    plugin(
        beside,
        "import stated\n" + SCALED.format(name="stating", cls="B", factor="stated.SCALE"),
        "plugin_two.py",
    )
    for _ in range(2):  # the second time Python reads the compiled module instead of the source
        records = run(
            beside, constructed, defenses=["subject", "stating"], attacks=[{"name": "fgsm", "eps": 0.1}]
        )
        assert flagged(records) == {"subject": True, "stating": False}
        sys.modules.pop("params_rv", None)
        _as_in_another_process(beside)


def test_packages_of_a_plugin_are_in_its_fingerprint(beside: Path, constructed: Path) -> None:
    (beside / "pack").mkdir()
    (beside / "pack" / "__init__.py").write_text("SCALE = 0.9\n")
    (beside / "pack" / "part.py").write_text("import pack\ndef scale():\n    return pack.SCALE\n")
    plugin(beside, "from pack.part import scale\n" + SCALED.format(name="subject", cls="A", factor="scale()"))
    assert flagged(run(beside, constructed)) == {"subject": False}


def test_a_file_that_a_helper_opens_at_import_counts_for_all_plugins_that_use_it(
    beside: Path, constructed: Path
) -> None:
    np.save("kept.npy", np.array([0.9]))
    (beside / "helper_rv.py").write_text("import numpy as np\nSCALE = float(np.load('kept.npy')[0])\n")
    for number in range(3):
        uses = SCALED.format(name=f"uses-{number}", cls="A", factor="helper_rv.SCALE" if number else "0.9")
        plugin(beside, ("import helper_rv\n" if number else "") + uses, f"plugin_{number}.py")
    records = run(beside, constructed, defenses=["uses-0", "uses-1", "uses-2"])
    assert flagged(records) == {"uses-0": False, "uses-1": True, "uses-2": True}


def test_a_file_that_a_factory_opens_at_import_counts_for_its_target(
    beside: Path, constructed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("kept.npy", np.ones((10, 784), np.float32))
    (beside / "factory.py").write_text(
        "import numpy as np, torch\nWEIGHT = torch.from_numpy(np.load('kept.npy'))\n"
        "def make():\n    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))\n"
        "    net[1].weight.data.copy_(WEIGHT)\n    return net\n"
        f"# {beside}\n"
    )
    targets = [{"name": "module", "factory": "factory.py:make"}, "nearest-mean"]
    grid = {
        "datasets": [{"name": "digits", "n": 10}],
        "targets": targets,
        "defenses": ["identity"],
        "attacks": [{"name": "fgsm", "eps": 0.1}],
        "threats": ["black-box"],
        "source": "target",
    }
    for _ in range(2):
        records = benchmark.run(
            grid, out="run", store="store", plugins=[constructed], trust=[str(beside / "factory.py")]
        )
        assert flagged(records, by="target") == {"module": True, "nearest-mean": False}
        _as_in_another_process(beside)  # but the factory file is imported already


CONFIGURED = """
class KeptConfig(Config):
    _kept: float = PrivateAttr(default_factory=lambda: {read})

@defense("subject")
class Subject(Defense[KeptConfig]):
    def purify(self, x, noise):
        return x * self.config._kept
"""


@pytest.mark.parametrize("read", ["float(np.load('kept.npy')[0])", "kept()"])
def test_code_of_a_configuration_is_watched(read: str, beside: Path, constructed: Path) -> None:
    """Even if it reads the file only once, when the grid is validated."""
    np.save("kept.npy", np.array([0.9]))
    cached = "@cache\ndef kept():\n    return float(np.load('kept.npy')[0])\n"
    plugin(beside, cached + CONFIGURED.format(read=read))
    assert flagged(run(beside, constructed)) == {"subject": True}


BY_PATH = """
from pydantic import model_validator

@cache
def read(path):
    return float(np.load(path)[0])

class WeightsConfig(Config):
    weights: FilePath = file()

    @model_validator(mode="after")
    def exists(self):
        if Path(self.weights).is_file():
            Path(self.weights).read_bytes()  # a declared file
        return self

@defense("subject")
class Subject(Defense[WeightsConfig]):
    def purify(self, x, noise):
        return x * read(self.config.weights)
"""


def test_a_plugin_gets_another_path_for_another_content(beside: Path, constructed: Path) -> None:
    """A plugin may cache a file by its path; its results must still match the key of the new content."""
    plugin(beside, BY_PATH)
    found = []
    for scale in (0.9, 0.0, 0.9):
        np.save("w.npy", np.array([scale]))
        records = run(beside, constructed, defenses=[{"name": "subject", "weights": str(beside / "w.npy")}])
        assert flagged(records) == {"subject": False}
        found.append(float(records["clean_error"][0]))
    assert found[0] == found[2] < found[1] - 0.3


def test_a_link_keeps_the_name_and_is_removed_at_exit(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"content")
    code = (
        "from pathlib import Path; from benchmark.files.digests import linked, shown, digest_of_file\n"
        "path = Path('net.pt'); link = linked(path, digest_of_file(path))\n"
        "assert link.resolve() == path.resolve() and link.name == 'net.pt' and shown(link) == 'net.pt'\n"
        "assert linked(path, 'other') != link == linked(path, digest_of_file(path))\n"
        "print(link)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=_environment(), capture_output=True)
    link = Path(done.stdout.decode().strip())
    assert link.is_absolute(), done.stderr
    assert not link.parent.parent.exists()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def test_bench_check_names_a_module_that_no_import_statement_names(beside: Path) -> None:
    (beside / "params_checked.py").write_text("SCALE = 0.9\n")
    loaded = 'importlib.import_module("params_checked").SCALE'
    plugin(beside, "import importlib\n" + SCALED.format(name="subject", cls="A", factor=loaded))
    done = CliRunner().invoke(app, ["check", "subject", "--plugin", "plugin.py"])
    assert done.exit_code == 1
    output = " ".join(done.output.split())
    assert "opens params_checked.py" in output
    assert "import it with an import statement" in output
