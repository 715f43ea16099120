"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.registry import KINDS, default_registry
from tests.conftest import REPOSITORY

ENGLISH = {"identity", "noise"}
"""Names of plugins that are also words of the harness."""

PACKAGES = ("benchmark", "defenses", "attacks", "targets")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_core_needs_no_torch() -> None:
    core = "plan, grid, keys, tables, leaderboard, records"
    code = f"import sys\nfrom benchmark import {core}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("package", ["defenses", "attacks", "targets"])
def test_plugin_kinds_do_not_know_one_another(package: str) -> None:
    others = {"defenses", "attacks", "targets"} - {package}
    for path in (REPOSITORY / package).glob("*.py"):
        assert not {name.partition(".")[0] for name in imported(path)} & others, path.name


def test_the_harness_names_no_plugin() -> None:
    names = {name for kind in KINDS for name in default_registry().names(kind)}
    for path in (REPOSITORY / "benchmark").rglob("*.py"):
        if path.parent.name == "datasets":
            continue  # data sets are plugins
        constants = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant)
        }
        assert not constants & (names - ENGLISH), path.name


def test_files_and_functions_fit_in_the_head() -> None:
    for path in [*FILES, *(REPOSITORY / "tests").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{path.name}: {node.name}"


def test_nothing_is_pickled() -> None:
    for path in FILES:
        assert not {"pickle", "dill", "joblib"} & imported(path), path.name
