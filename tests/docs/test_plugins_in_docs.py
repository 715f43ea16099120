"""The plugins on the pages `docs/add-*.md` are short, need one import line, and work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import benchmark
from benchmark.cli.main import app
from studies import REPOSITORY

LIMITS = {"add-a-defense": 25, "add-an-attack": 30, "add-a-target": 30, "add-a-dataset": 30}
"""The most lines that the first plugin of each page may have."""


def plugins(page: str) -> list[str]:
    text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def saved(code: str, folder: Path) -> Path:
    """The plugin in a file with the name that its docstring begins with."""
    path = folder / f"{code[3 : code.index(':')]}.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.mark.parametrize("page", LIMITS)
def test_the_first_plugin_of_a_page_is_short(page: str) -> None:
    assert len(plugins(page)[0].splitlines()) <= LIMITS[page]


@pytest.mark.parametrize("page", LIMITS)
def test_a_plugin_imports_the_project_in_one_line(page: str) -> None:
    for code in plugins(page):
        imports = re.findall(
            r"^(?:from|import) (benchmark\S*|attacks|defenses|targets)", code, flags=re.MULTILINE
        )
        assert imports == ["benchmark.api"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_defense_keeps_its_contract(number: int, tmp_path: Path) -> None:
    path = saved(plugins("add-a-defense")[number], tmp_path)
    done = CliRunner().invoke(app, ["check", path.stem, "--plugin", str(path)])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert "BAD " not in done.output


@pytest.mark.parametrize(
    ("page", "key"),
    [("add-an-attack", "attacks"), ("add-a-target", "targets"), ("add-a-dataset", "datasets")],
)
def test_a_plugin_of_another_kind_runs(page: str, key: str, tmp_path: Path, session_store: str) -> None:
    path = saved(plugins(page)[0], tmp_path)
    entries: dict[str, dict[str, Any]] = {
        "datasets": {"name": "digits", "n": 10},
        "targets": {"name": "mnist-c", "epochs": 1, "min_steps": 0, "batch_size": 32},
        "attacks": {"name": "fgsm", "eps": 0.1},
    }
    entry = {name: value for name, value in entries[key].items() if name in ("n", "eps")}
    grid: dict[str, Any] = {kind: [value] for kind, value in entries.items()} | {
        key: [{"name": path.stem, **entry}],
        "defenses": ["identity"],
        "threats": ["black-box", "white-box"],
    }
    records = benchmark.run(grid, store=session_store, out=tmp_path / "out", plugins=[path])
    assert list(records["status"]) == ["ok", "ok"], list(records["reason"])
