"""This project is one import package, whatever lies in the current folder and whatever is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from studies import REPOSITORY

FOLDERS = ("attacks", "defenses", "targets")

IMPORT_ALL = """
import importlib, json, sys
from benchmark.plugins.registry import KINDS, default_registry
registry = default_registry()
for kind in KINDS:
    for entry in registry.entries(kind):
        entry.load()
import benchmark.cli.main, benchmark.runs
mine = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "benchmark"}
print(json.dumps([registry.names("defense"), sorted(filter(None, mine.values()))]))
"""


def _python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {} if path is None else {"PYTHONPATH": str(path)}
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _plugins_and_files(*options: str, cwd: Path, path: Path | None = None) -> tuple[list[str], list[str]]:
    import json

    names, files = json.loads(_python(*options, "-c", IMPORT_ALL, cwd=cwd, path=path))
    return names, files


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of a user's own project, with packages of common names."""
    folder = tmp_path / "project"
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("OWNER = 'user'\n")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A second checkout, which is not installed, with one more defense."""
    root = tmp_path / "checkout"
    for name in ("benchmark", *FOLDERS):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "setup.cfg", root)
    text = (root / "defenses" / "identity.py").read_text().replace('@defense("identity")', '@defense("new")')
    (root / "defenses" / "new.py").write_text(text)
    return root


@pytest.mark.parametrize("start", [["-m", "benchmark"], None])
def test_commands_work_beside_packages_of_common_names(elsewhere: Path, start: Sequence[str] | None) -> None:
    bench = Path(sys.executable).with_name("bench")
    if start is None and not bench.is_file():
        pytest.skip("this package runs from its sources: there is no command `bench`")
    command = [str(bench)] if start is None else [sys.executable, *start]
    path = os.environ | ({} if start is None else {"PYTHONPATH": str(REPOSITORY)})
    for arguments in (["list", "attacks"], ["show", "pgd"]):
        ran = subprocess.run([*command, *arguments], cwd=elsewhere, env=path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert "pgd" in ran.stdout


def test_a_users_packages_stay_importable_beside_this_one(elsewhere: Path) -> None:
    code = "import attacks, defenses, targets, benchmark.attacks.pgd as pgd\n"
    code += "print({m.OWNER for m in (attacks, defenses, targets)}, pgd.Pgd.name)"
    assert _python("-c", code, cwd=elsewhere, path=REPOSITORY).split() == ["{'user'}", "pgd"]
    (elsewhere / "test_mine.py").write_text(f"def test_it():\n    {code.replace(chr(10), chr(10) + '    ')}")
    ran = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=elsewhere, path=REPOSITORY)
    assert "1 passed" in ran


def test_a_checkout_imports_every_module_from_itself(checkout: Path, tmp_path: Path) -> None:
    for cwd, path in ((checkout, None), (tmp_path, checkout)):
        names, files = _plugins_and_files(cwd=cwd, path=path)
        assert "new" in names  # found without installing anything again
        assert {file for file in files if not file.startswith(str(checkout))} == set()
    code = (
        "def test_it():\n    import benchmark.attacks.pgd as pgd\n    assert pgd.__file__.startswith({!r})\n"
    )
    (checkout / "test_where.py").write_text(code.format(str(checkout)))
    ran = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_where.py", cwd=checkout)
    assert "1 passed" in ran


def test_the_wheel_holds_one_package_and_works_alone(checkout: Path, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, checkout)
    (checkout / "defenses" / "new.py").unlink()
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    _python("-m", "pip", "wheel", *options, "--wheel-dir", str(tmp_path), ".", cwd=checkout)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if ".dist-info/" not in name]
        archive.extractall(tmp_path / "installed")
    assert {name.partition("/")[0] for name in held} == {"benchmark"}
    sources = {
        path.relative_to(REPOSITORY / "benchmark") for path in (REPOSITORY / "benchmark").rglob("*.py")
    }
    for folder in FOLDERS:
        sources |= {path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob("*.py")}
    assert {f"benchmark/{path.as_posix()}" for path in sources} == {n for n in held if n.endswith(".py")}
    shutil.rmtree(checkout)
    names, files = _plugins_and_files("-P", cwd=tmp_path, path=tmp_path / "installed")
    assert "ape-gan" in names
    assert {file for file in files if not file.startswith(str(tmp_path / "installed"))} == set()
    shown = _python("-P", "-m", "benchmark", "show", "quick", cwd=tmp_path, path=tmp_path / "installed")
    assert "fgsm" in shown
