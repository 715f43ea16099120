"""The commands of the README run, its tables were printed by a run, and the docs are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.cli.main import app
from benchmark.plan.threats import THREATS
from benchmark.results.columns import LEADERBOARD_COLUMNS, RECORD_COLUMNS
from benchmark.results.flags import FLAGS
from studies import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file that the README says to save."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "half.yaml").write_text(next(block for block in blocks("yaml") if "half" in block))
    return folder


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("bench ")]


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 7
    assert [line for block in blocks("sh") for line in block.splitlines()][:2] == ["make quick", "make test"]


def test_every_command_of_the_readme_runs_in_its_order(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process; the test of a killed run starts `python -m benchmark`."""
    monkeypatch.chdir(workplace)
    # `make quick` is the first command there
    for line in ["bench run --grid quick", *COMMANDS]:
        arguments = shlex.split(line)[1:]
        if arguments[0] in ("run", "doctor"):
            arguments += ["--store", str(workplace / "store")]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
        if line.startswith("bench new"):
            assert (workplace / "half.py").read_text(encoding="utf-8") == blocks("python")[0]
            assert (workplace / "test_half.py").exists()
        if line.startswith("bench check"):
            assert "BAD " not in done.output
        if line.endswith("half.yaml --plugin half.py"):
            assert "half" in done.output
            assert "identity" in done.output


def test_the_table_of_the_readme_was_printed_by_a_run() -> None:
    printed = (REPOSITORY / "results" / "grids" / "quick" / "tables.md").read_text(encoding="utf-8")
    table = re.findall(r"^\|.*\|$", README.partition("## Three journeys")[0], flags=re.MULTILINE)
    assert len(table) >= 8
    assert all(line in printed.splitlines() for line in table)


def test_the_readme_is_short_and_its_links_work_on_a_package_index() -> None:
    assert len(README.splitlines()) <= 130
    assert [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")] == []
    for name in re.findall(r"`((?:docs|results|benchmark)/[\w./-]+|\w+\.md)`", README):
        assert (REPOSITORY / name).exists(), name


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE) or target == "It"


def test_local_links_exist() -> None:
    for path in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("results/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_every_column_is_documented() -> None:
    text = (REPOSITORY / "docs" / "columns.md").read_text(encoding="utf-8")
    assert [name for name in RECORD_COLUMNS if f"`{name}`" not in text] == []
    assert [name for name in ("rank", "bound", "control", "n", "error") if f"`{name}`" not in text] == []
    assert set(LEADERBOARD_COLUMNS) >= {"rank", "bound", "control"}


def test_every_flag_and_threat_is_documented() -> None:
    flags = (REPOSITORY / "benchmark" / "FLAGS.md").read_text(encoding="utf-8")
    for name, flag in FLAGS.items():
        assert re.search(rf"^## {name}\n\n\*\*{flag.kind.capitalize()}\b", flags, flags=re.MULTILINE), name
    assert [name for name in THREATS if f"`{name}`" not in README] == []


def test_the_grid_reference_is_a_valid_grid() -> None:
    from io import StringIO

    from ruamel.yaml import YAML

    from benchmark.plan.grid import load_grid
    from benchmark.plugins.registry import default_registry

    text = (REPOSITORY / "docs" / "grid.md").read_text(encoding="utf-8")
    grid = load_grid(YAML(typ="safe").load(StringIO(blocks("yaml", text)[0])), default_registry())
    assert len(grid.blocks[0].attacks) == 6
