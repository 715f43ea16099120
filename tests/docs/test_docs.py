"""The pages in docs/ build a site without warnings, and their commands exist and run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmark.cli.main import app
from studies import REPOSITORY
from tests.conftest import Runner

PAGES = sorted([*REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("results/README.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("bench ")]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    parameters = (tmp_path / "site" / "parameters" / "index.html").read_text(encoding="utf-8")
    assert "ape-gan (defense)" in parameters
    assert str(REPOSITORY) not in parameters
    assert "zero-gradient" in (tmp_path / "site" / "flags" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["architecture.md", "glossary.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    tree = re.findall(r"^  ?(\w+\.py|\w+/) ", text, flags=re.MULTILINE)
    named = {name for name in re.findall(r"`([\w./-]+(?:\.py|/))`", text) if name.count("/") or "." in name}
    roots = (REPOSITORY, REPOSITORY / "benchmark")
    assert [name for name in (*tree, *named) if not any((root / name).exists() for root in roots)] == []
    packages = {
        path.name for path in (REPOSITORY / "benchmark").iterdir() if path.suffix == ".py" or path.is_dir()
    }
    missing = {name for name in packages if not name.startswith("__") and f"  {name}" not in text}
    assert page != "architecture.md" or missing <= {"grids", "papers", "templates"}


def test_a_broken_link_stops_the_site(tmp_path: Path) -> None:
    for path in REPOSITORY.iterdir():
        if not path.name.startswith(".") and path.name != "docs":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "docs").mkdir()
    for path in (REPOSITORY / "docs").iterdir():
        (tmp_path / "docs" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "docs" / "masks.md").write_text("# Masks\n\n[gone](no-such-page.md)\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode != 0
    assert "no-such-page.md" in built.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_on_a_page_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    for line in commands(page):
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = group.commands[name]  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            name, *arguments = arguments
            command = command.commands[name]
        context = command.make_context(name, arguments)
        assert context.args == []


@pytest.mark.parametrize(
    "name", ["add-a-defense", "add-an-attack", "add-a-target", "add-a-dataset", "report", "scale-out"]
)
def test_the_commands_of_a_page_run(
    name: str, tmp_path: Path, session_store: str, small_run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_STORE", session_store)
    page = REPOSITORY / "docs" / f"{name}.md"
    for code in blocks(page, "python"):
        (tmp_path / f"{code[3 : code.index(':')]}.py").write_text(code)
    for grid in blocks(page, "yaml"):
        (tmp_path / f"{grid.splitlines()[0].removeprefix('name: ')}.yaml").write_text(grid)
    if name == "report":
        small_run(out=tmp_path / "results" / "runs" / "quick")
    assert commands(page)
    for line in commands(page):
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
        assert "BAD " not in done.output
