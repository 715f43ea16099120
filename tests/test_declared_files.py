"""Files that parameters name, and the code that a result depends on: what must be in the key is in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import benchmark
from benchmark.errors import UserError

HEAD = """
from functools import cache
from pathlib import Path
import numpy as np
from pydantic import PrivateAttr
from benchmark.plugin import Config, FilePath, file, infer
from defenses.contract import Defense, defense
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of plugin files, which is also the current one; modules in it are forgotten afterwards."""
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


def plugin(folder: Path, body: str, name: str = "plugin.py") -> None:
    (folder / name).write_text(f"{HEAD}{body}\n# {folder}\n")


def test_a_cheaper_setting_with_another_file_is_refused(beside: Path, constructed: Path) -> None:
    """Only the file of the full setting is in the key."""
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
