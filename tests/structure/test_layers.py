"""The contracts of setup.cfg: imports between layers go one way, and plugins import `benchmark.api` only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studies import REPOSITORY

LINT = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is in a wheel, in which the contracts are checked."""
    root = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(REPOSITORY / "benchmark", root / "benchmark", ignore=ignore)
    for folder in ("attacks", "defenses", "targets"):
        shutil.copytree(REPOSITORY / folder, root / "benchmark" / folder, ignore=ignore)
    return root


def _check(tree: Path) -> tuple[int, str]:
    command = [sys.executable, "-c", LINT, "--no-cache", str(REPOSITORY / "setup.cfg")]
    ran = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("metrics/statistics.py", "from benchmark.cli import main", "Imports between layers go one way"),
        ("execution/craft.py", "import benchmark.results.records", "Imports between layers go one way"),
        ("attacks/pgd.py", "from benchmark.errors import UserError", "through benchmark.api only"),
        ("defenses/jpeg.py", "from benchmark.attacks.pgd import Pgd", "Imports between layers go one way"),
        ("plan/grid.py", "import benchmark.defenses.jpeg", "The harness knows no plugin by name"),
    ],
)
def test_an_import_that_goes_up_breaks_a_contract(tree: Path, file: str, line: str, broken: str) -> None:
    path = tree / "benchmark" / file
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n\ndef _later() -> None:\n    {line}\n", encoding="utf-8")
    try:
        status, said = _check(tree)
    finally:
        path.write_text(text, encoding="utf-8")
    assert status == 1
    assert any(broken in found and "BROKEN" in found for found in said.splitlines()), said


def test_the_contracts_are_kept(tree: Path) -> None:
    status, said = _check(tree)
    assert status == 0, said
