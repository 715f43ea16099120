"""What names a result, and what does not: one grid on one store, run by changed copies of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmark.display import Silent
from benchmark.executor import execute, split_by_store
from benchmark.runs import Prepared, prepare
from tests.conftest import REPOSITORY
from tests.lock_contents import Lock, compare, read

GRID: dict[str, Any] = {
    "name": "copied",
    "datasets": [{"name": "digits", "n": 10}],
    "targets": ["mnist-c"],
    "defenses": ["identity", "median", {"name": "ape-gan", "batch_size": 8}],
    "attacks": [{"name": "fgsm", "eps": 0.1}],
    "threats": ["black-box", {"name": "gray-box", "copies": 1}],
}

_RUN = """
import importlib.metadata, json, sys
from pathlib import Path
from unittest.mock import patch

grid, store, out, faked = json.loads(sys.argv[1])
version = importlib.metadata.version
importlib.metadata.version = lambda name: faked.get(name) or version(name)

from benchmark.display import Silent
from benchmark.executor import split_by_store
from benchmark.plugin import Plugin
from benchmark.runs import prepare, run_prepared

class Observer(Silent):
    def warn(self, message):
        said.append(message)

def missing(reuse):
    prepared = prepare(grid, Observer(), store=store, device="cpu", reuse=reuse, zoo=False)
    return prepared, sorted({(t.kind, t.label) for t in split_by_store(prepared.plan, prepared.workshop)[0]})

said, Plugin.step_limit = [], 2
plans = {reuse: missing(reuse) for reuse in ("any", "same-code", "same-environment")}
run_prepared(plans["any"][0], Observer(), Path(out))
print(json.dumps([{reuse: plan[1] for reuse, plan in plans.items()}, said]))
"""

_LOCK = """
import json
from tests.lock_contents import contents
print(json.dumps(contents()))
"""


@dataclass(frozen=True)
class Ran:
    """What a run in a copy had to compute under each policy, what it said, and its records."""

    missing: dict[str, list[list[str]]]
    said: list[str]
    records: bytes


Edit = tuple[str, str, str]
"""A file, a text in it, and what takes its place."""


def _copy(folder: Path, *edits: Edit) -> Path:
    """A copy of the packages with these changes."""
    for package in ("benchmark", "attacks", "defenses", "targets"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in edits:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")
    return folder


def _python(tree: Path, code: str, *arguments: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


Runs = Callable[..., Ran]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def run_in(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs the grid in a tree, on the one store; `faked` are releases of libraries."""

    def run(tree: Path, **faked: str) -> Ran:
        out = tmp_path_factory.mktemp("out")
        missing, said = _python(tree, _RUN, json.dumps([GRID, str(store), str(out), faked]))
        return Ran(missing, said, (out / "records.csv").read_bytes())

    return run


@pytest.fixture(scope="module")
def first(run_in: Runs) -> Ran:
    """The run of the code as it is, which fills the store."""
    ran = run_in(REPOSITORY)
    assert ["train-defense", "ape-gan"] in ran.missing["any"]
    assert not ran.said
    return ran


def test_a_changed_message_and_another_release_compute_nothing(
    first: Ran, run_in: Runs, tmp_path: Path
) -> None:
    tree = _copy(tmp_path, ("benchmark/errors.py", "did you mean", "did you perhaps mean"))
    ran = run_in(tree, torchvision="0.0.1")
    assert ran.missing["any"] == []
    assert ran.records == first.records
    assert ran.missing["same-environment"] == first.missing["any"]
    # a training counts under its key, whatever code made it
    others = [task for task in first.missing["any"] if not task[0].startswith("train-")]
    assert ran.missing["same-code"] == others
    (line,) = ran.said
    assert line.startswith("from the store: ")
    assert "made by other code" in line
    assert "made with torchvision" in line


def test_a_renamed_helper_and_a_moved_module_compute_nothing(
    first: Ran, run_in: Runs, tmp_path: Path
) -> None:
    tree = _copy(tmp_path, ("defenses/ape_gan.py", "_discriminate", "_tell_apart"))
    (tree / "defenses" / "ape_nets.py").rename(tree / "defenses" / "ape_layers.py")
    for path in (tree / "defenses").glob("*.py"):
        path.write_text(path.read_text().replace("defenses.ape_nets", "defenses.ape_layers"))
    ran = run_in(tree)
    assert ran.missing["any"] == []
    assert ran.records == first.records
    (line,) = ran.said
    assert "made by other code (defense ape-gan)" in line
    assert "made with" not in line
    own = {"purify", "score", "consistency-check", "gradient-probe"}
    on_copies = [["craft", "fgsm"]]
    assert ran.missing["same-code"] == sorted([[kind, "ape-gan"] for kind in own] + on_copies)


def test_same_code_computes_also_what_rests_on_other_code(first: Ran, run_in: Runs, tmp_path: Path) -> None:
    """A score runs no code of the attack, and is made from its images."""
    tree = _copy(tmp_path, ("attacks/fgsm.py", "@attack(", "_UNUSED = 1\n\n\n@attack("))
    ran = run_in(tree)
    assert ran.missing["any"] == []
    kinds = {kind for kind, _ in ran.missing["same-code"]}
    assert kinds == {"craft", "purify", "score"}
    assert "made by other code (attack fgsm)" in ran.said[0]


def test_a_raised_version_computes_what_rests_on_it_and_nothing_else(
    first: Ran, run_in: Runs, tmp_path: Path
) -> None:
    tree = _copy(
        tmp_path,
        ("defenses/median.py", "    control = True", "    version = 2\n    control = True"),
    )
    missing = {tuple(task) for task in run_in(tree).missing["any"]}
    checks = {(kind, "median") for kind in ("purify", "score", "consistency-check", "gradient-probe")}
    assert missing == {*checks, ("craft", "fgsm")}


def test_a_target_and_a_source_of_one_recipe_and_seed_have_other_weights(first: Ran, store: Path) -> None:
    weights = {}
    for path in (store / "train-target" / "mnist-c").glob("*.json"):
        entry = json.loads(path.read_text())
        assert entry["meta"]["task"]["seed"] == 0
        tensors = load_file(path.with_name(entry["payload"]))
        weights[entry["meta"]["task"]["role"]] = tensors
    target, source = weights["target"], weights["source"]
    assert not any(torch.equal(target[name], source[name]) for name in target if target[name].dim() > 1)


@pytest.fixture(scope="module")
def contents_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Lock]:
    """What the lock would hold in a copy with changes."""

    def contents(*edits: Edit) -> Lock:
        tree = _copy(tmp_path_factory.mktemp("tree"), *edits)
        shutil.copytree(REPOSITORY / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        found: Lock = _python(tree, _LOCK)
        return found

    return contents


def test_a_new_parameter_with_a_default_moves_no_key_of_any_grid(contents_of: Callable[..., Lock]) -> None:
    here = contents_of(
        ("defenses/ape_gan.py", "    official_code:", "    extra: float = train(0.5)\n    official_code:"),
        ("defenses/jpeg.py", "    quality:", "    extra: float = infer(0.5)\n    quality:"),
        (
            "attacks/ascent.py",
            "    alpha: float | None = p",
            "    extra: float = param(0.5)\n    alpha: float | None = p",
        ),
        ("targets/recipe.py", "    epochs:", "    extra: float = 0.5\n    epochs:"),
    )
    assert here["parameters"]["target mnist-c"]["defaults"]["extra"] == 0.5
    assert here["parameters"]["attack pgd"]["defaults"]["extra"] == 0.5
    for part in ("keys", "seeds", "grids"):
        assert here[part] == read()[part]
    assert sum(grid["cells"] for grid in here["grids"].values()) > 10_000


def test_a_default_and_seeds_changed_under_a_version_are_refused(contents_of: Callable[..., Lock]) -> None:
    here = contents_of(
        ("defenses/bit_depth.py", "infer(3,", "infer(4,"),
        ("benchmark/keys.py", ">> 1", ">> 2"),
    )
    refused = [finding.message for finding in compare(read(), here) if finding.need == "version"]
    assert refused[0] == "the default of bits is 4 and was 3: raise the version of bit-depth"
    assert refused[1].startswith("the seeds of ")
    assert "moved, so that trainings and draws come out otherwise" in refused[1]


def _prepared(store: Path, reuse: Any, threads: int, observer: Silent) -> Prepared:
    grid = GRID | {"targets": ["nearest-mean"], "source": "target", "defenses": ["identity"]}
    plugins = [REPOSITORY / "tests" / "constructed.py"]
    return prepare(
        grid, observer, store=store, device="cpu", zoo=False, plugins=plugins, reuse=reuse, threads=threads
    )


def test_results_made_with_another_number_of_threads_are_taken_unless_asked_otherwise(tmp_path: Path) -> None:
    class Listener(Silent):
        said: list[str] = []  # noqa: RUF012

        def warn(self, message: str) -> None:
            self.said.append(message)

    first = _prepared(tmp_path, "any", 1, Silent())
    execute(first.plan, first.workshop, Silent())
    counts = {}
    for reuse in ("any", "same-code", "same-environment"):
        prepared = _prepared(tmp_path, reuse, 2, Silent())
        counts[reuse] = len(split_by_store(prepared.plan, prepared.workshop)[0])
    tasks = len(first.plan.tasks)
    assert counts == {"any": 0, "same-code": 0, "same-environment": tasks}
    again = _prepared(tmp_path, "any", 2, Listener())
    execute(again.plan, again.workshop, listener := Listener())
    assert listener.said == [
        f"from the store: {tasks} results made with threads 1 (--reuse says which results to take)"
    ]
