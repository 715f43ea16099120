"""Parameters in a grid must be plain values, and files that they name must be regular files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmark.datasets.reading.user_files import locate
from benchmark.errors import UserError
from benchmark.execution.observer import Silent
from benchmark.files.digests import digest_of_file
from benchmark.plan.parameters import value_fault
from benchmark.runs import plan_run

GRID = """\
datasets: [{name: digits, n: 2}]
defenses: [identity]
attacks: [noise]
threats: [black-box]
targets:
  - name: module
    factory: nets.py:make
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text("from torch import nn\ndef make(**_):\n    return nn.Flatten()\n")
    return tmp_path


def refusal(more: str) -> str:
    Path("g.yaml").write_text(GRID + more)
    with pytest.raises(UserError) as caught:
        plan_run("g.yaml", Silent(), store="store", device="cpu", trust=["nets.py"])
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("{num_classes: !!set {a}}", "holds a value of the type set"),
        ("{a: [1, {b: !strange x}]}", "holds a value of the unknown YAML tag !strange"),
        ("{a: 2026-01-01}", "holds a value of the type date"),
        ("{a: !!binary aGVsbG8=}", "holds a value of the type bytes"),
        ("{a: .nan}", "holds nan, and numbers have to be finite"),
        ("{a: [-.inf]}", "holds -inf, and numbers have to be finite"),
        ('{a: "b\\0"}', "holds the character NUL"),
        ('{"a\\0": 1}', "holds the character NUL"),
        ("{a: " + "[" * 60 + "]" * 60 + "}", "is nested deeper than 50 levels"),
    ],
)
def test_a_value_that_json_cannot_hold_is_refused_with_its_line(arguments: str, why: str) -> None:
    message = refusal(f"    arguments: {arguments}\n")
    assert message.startswith("g.yaml:8: target module: arguments ")
    assert why in message


def test_a_grid_that_is_nested_too_deeply_to_be_read_is_refused() -> None:
    message = refusal("    arguments: {a: " + "[" * 5000 + "]" * 5000 + "}\n")
    assert "g.yaml: its lists and mappings are nested too deeply" in message


@pytest.mark.parametrize(
    "value", [1, 0.5, True, None, "né", [1, ["a"]], {"a": {"b": [None]}}, (1, 2), {1: 2}]
)
def test_plain_values_are_accepted(value: object) -> None:
    assert value_fault(value) is None


@pytest.mark.parametrize("value", ["\udc80", {"a": object()}, {(1, frozenset()): 1}, b"x", float("inf")])
def test_other_values_are_refused(value: object) -> None:
    assert value_fault(value)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ("/dev/zero", "cannot read the file '/dev/zero' of the parameter weights: it is no regular file"),
        ("pipe", "cannot read the file 'pipe' of the parameter weights: it is no regular file"),
        ("link", "cannot read the file 'link' of the parameter weights: it is no regular file"),
        ("absent", "cannot read the file 'absent' of the parameter weights: No such file"),
        (".", "cannot read the file '.' of the parameter weights: Is a directory"),
        ('"a\\0b"', "weights holds the character NUL"),
    ],
)
def test_a_file_that_a_grid_names_must_be_regular(weights: str, why: str) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    assert why in refusal(f"    weights: {weights}\n")


@pytest.mark.parametrize("name", ["pipe", "a\0b", "\ud800"])
def test_a_digest_of_something_that_is_not_a_file_raises(name: str) -> None:
    os.mkfifo("pipe")
    with pytest.raises(OSError, match="it is no"):
        digest_of_file(Path(name))


def test_a_data_set_cannot_be_a_pipe(folder: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(UserError, match="is neither a regular file nor a folder"):
        locate("pipe", folder)


def test_a_grid_from_python_is_checked_too() -> None:
    target: dict[str, Any] = {"name": "module", "factory": "nets.py:make", "arguments": {"a": {1}}}
    grid = {"datasets": ["digits"], "targets": [target], "defenses": ["identity"], "attacks": ["noise"]}
    with pytest.raises(UserError, match="target module: arguments holds a value of the type set"):
        plan_run(grid | {"threats": ["black-box"]}, Silent(), store="store", device="cpu", trust=["nets.py"])
