"""`bench new` and `bench check` as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.plugins.registry import Registry


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a new defense and one that was broken afterwards, and the output of pytest for both."""
    folder = tmp_path_factory.mktemp("new")
    for name in ("my-half2", "broken"):
        written = invoke("new", "defense", name, "--out", folder)
        assert written.exit_code == 0, written.output
        assert f"bench check {name} --plugin {folder}" in written.output
        assert f"pytest {folder}" in written.output
    plugin = folder / "broken.py"
    plugin.write_text(plugin.read_text(encoding="utf-8").replace("self.config.factor", "3"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", folder], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    return folder, done.stdout


def test_a_new_defense_passes_its_test_and_the_check(tested: tuple[Path, str]) -> None:
    folder, output = tested
    plugin = folder / "my_half2.py"
    assert "class MyHalf2(Defense[MyHalf2Config]):" in plugin.read_text(encoding="utf-8")
    assert len(re.findall(r"^test_my_half2\.py::\w+ PASSED", output, flags=re.MULTILINE)) == 2

    checked = invoke("check", "my-half2", "--plugin", plugin)
    assert checked.exit_code == 0, checked.output
    assert "ok   1×28×28 batch: " in checked.output
    assert "skip 3×32×32 training: not trainable" in checked.output


def test_the_test_of_a_new_defense_fails_with_it(tested: tuple[Path, str]) -> None:
    folder, output = tested
    assert re.search(r"^test_broken\.py::\w+ FAILED", output, flags=re.MULTILINE)
    assert "outside [0, 1]" in output
    checked = invoke("check", "broken", "--plugin", folder / "broken.py")
    assert checked.exit_code == 1
    assert "BAD  1×28×28 output: defense broken returned values outside [0, 1]" in checked.output


@pytest.mark.parametrize("name", ["noise", "config", "none", "defense", "tensor", "a--b-", "half-config"])
def test_any_name_makes_a_class(name: str, tmp_path: Path) -> None:
    assert invoke("new", "defense", name, "--out", tmp_path).exit_code == 0
    registry = Registry()
    registry.add_file(tmp_path / f"{name.replace('-', '_')}.py")
    assert registry.get("defense", name).load().name == name


@pytest.mark.parametrize("name", ["Half", "2nd", "-half", "half_2", "a b", "", "../half", "half\n", "hälfte"])
def test_a_bad_name_is_refused(name: str, tmp_path: Path) -> None:
    assert "not a valid name for a defense" in refusal("new", "defense", "--out", tmp_path, "--", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["json", "torch", "benchmark"])
def test_a_file_that_would_hide_a_module_is_refused(name: str, tmp_path: Path) -> None:
    assert f"would hide the module {name!r}" in refusal("new", "defense", name, "--out", tmp_path)


def test_a_name_in_use_is_refused_with_its_file(tmp_path: Path) -> None:
    assert "median.py" in refusal("new", "defense", "median", "--out", tmp_path)


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    assert "'defence'" in refusal("new", "defence", "half", "--out", tmp_path)
    assert "did you mean 'defense'" in refusal("new", "defence", "half", "--out", tmp_path)
    assert "known: defense" in refusal("new", "target", "half", "--out", tmp_path)


@pytest.mark.parametrize("existing", ["half.py", "test_half.py"])
def test_nothing_is_overwritten(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("mine")
    assert existing in refusal("new", "defense", "half", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal("new", "defense", "half", "--out", tmp_path / "file" / "below")


def test_check_accepts_defenses_only() -> None:
    assert "did you mean 'median'" in refusal("check", "medain")
    assert "'pgd' is the name of an attack; only defenses" in refusal("check", "pgd")
    assert "no device 'abacus'" in refusal("check", "identity", "--device", "abacus")


def test_check_of_a_file_that_cannot_be_imported_names_the_line(tmp_path: Path) -> None:
    invoke("new", "defense", "half", "--out", tmp_path)
    plugin = tmp_path / "half.py"
    plugin.write_text(plugin.read_text(encoding="utf-8") + "\nraise RuntimeError('no')\n", encoding="utf-8")
    assert "cannot be imported: RuntimeError: no" in refusal("check", "half", "--plugin", plugin)
