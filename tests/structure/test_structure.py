"""Rules for the code that a program can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from benchmark.plugins.registry import KINDS, default_registry
from studies import REPOSITORY

ENGLISH = {"identity", "noise"}
"""Names of plugins that are also words in the harness."""

PACKAGES = ("benchmark", "defenses", "attacks", "targets")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_core_needs_no_torch() -> None:
    core = "plan.plan plan.grid storage.keys report.tables results.leaderboard results.records"
    imports = "".join(f"import benchmark.{module}\n" for module in core.split())
    code = f"import sys\n{imports}sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_harness_names_no_plugin() -> None:
    names = {name for kind in KINDS for name in default_registry().names(kind)}
    for path in (REPOSITORY / "benchmark").rglob("*.py"):
        if "datasets" in path.parts:
            continue  # data sets are plugins
        constants = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant)
        }
        assert not constants & (names - ENGLISH), path.name


def test_files_and_functions_are_short() -> None:
    for top, longest in [*((package, 400) for package in PACKAGES), ("studies", 400), ("tests", 500)]:
        for path in (REPOSITORY / top).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert len(text.splitlines()) <= longest, path.name
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"


def test_nothing_is_pickled() -> None:
    for path in FILES:
        assert not {"pickle", "dill", "joblib"} & imported(path), path.name
