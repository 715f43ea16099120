"""Which changes of the code cause results to be computed again.

Changed copies of the package run one grid on one store.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmark.execution.executor import execute, split_by_store
from benchmark.execution.observer import Silent
from benchmark.runs import PlannedRun, plan_run
from studies import REPOSITORY
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

grid, store, out, releases = json.loads(sys.argv[1])
version = importlib.metadata.version
importlib.metadata.version = lambda name: releases.get(name) or version(name)

from benchmark.execution.observer import Silent
from benchmark.execution.executor import split_by_store
from benchmark.plugins.plugin import Plugin
from benchmark.runs import execute_run, plan_run

class Observer(Silent):
    def warn(self, message):
        warnings.append(message)

def missing(reuse):
    planned = plan_run(grid, Observer(), store=store, device="cpu", reuse=reuse, zoo=False)
    return planned, sorted({(t.kind, t.label) for t in split_by_store(planned.plan, planned.context)[0]})

warnings, Plugin.step_limit = [], 2
plans = {reuse: missing(reuse) for reuse in ("any", "same-code", "same-environment")}
execute_run(plans["any"][0], Observer(), Path(out))
print(json.dumps([{reuse: plan[1] for reuse, plan in plans.items()}, warnings]))
"""

_LOCK = """
import json
from tests.lock_contents import contents
print(json.dumps(contents()))
"""


@dataclass(frozen=True)
class RunOfCopy:
    """A run by a copy of the package.

    Attributes:
        missing: Kind and label of the tasks that the store lacked, by `--reuse`.
        warnings: The warnings of the run.
        records: The content of `records.csv`.
    """

    missing: dict[str, list[list[str]]]
    warnings: list[str]
    records: bytes


Edit = tuple[str, str, str]
"""A file, a text in it, and its replacement."""


def _copy_package(name: str, folder: Path) -> None:
    shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def _copy(folder: Path, *edits: Edit) -> Path:
    """A changed copy of the package; it is a checkout, because `setup.cfg` lies beside the plugin folders."""
    for package in ("benchmark", "attacks", "defenses", "targets"):
        _copy_package(package, folder)
    shutil.copy(REPOSITORY / "setup.cfg", folder)
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


def _run(tree: Path, store: Path, **releases: str) -> RunOfCopy:
    """Run the grid with a copy of the package; keywords fake versions of libraries."""
    with TemporaryDirectory() as out:
        missing, warnings = _python(tree, _RUN, json.dumps([GRID, str(store), out, releases]))
        return RunOfCopy(missing, warnings, Path(out, "records.csv").read_bytes())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def first(store: Path) -> RunOfCopy:
    """The run of the unchanged code, which fills the store."""
    ran = _run(REPOSITORY, store)
    assert ["train-defense", "ape-gan"] in ran.missing["any"]
    assert not ran.warnings
    return ran


def test_a_changed_message_and_another_library_version_compute_nothing(
    first: RunOfCopy, store: Path, tmp_path: Path
) -> None:
    tree = _copy(tmp_path, ("benchmark/errors.py", "did you mean", "did you perhaps mean"))
    ran = _run(tree, store, torchvision="0.0.1")
    assert ran.missing["any"] == []
    assert ran.records == first.records
    assert ran.missing["same-environment"] == first.missing["any"]
    # trainings are reused by key, whatever code made them
    others = [task for task in first.missing["any"] if not task[0].startswith("train-")]
    assert ran.missing["same-code"] == others
    (line,) = ran.warnings
    assert line.startswith("from the store: ")
    assert "made by other code" in line
    assert "made with torchvision" in line


def test_a_renamed_helper_and_a_moved_module_compute_nothing(
    first: RunOfCopy, store: Path, tmp_path: Path
) -> None:
    tree = _copy(tmp_path, ("defenses/ape_gan.py", "_discriminator_loss", "_loss_of_discriminator"))
    nets = tree / "defenses" / "nets"
    (nets / "ape_gan_networks.py").rename(nets / "ape_gan_layers.py")
    for path in (tree / "defenses").glob("*.py"):
        path.write_text(path.read_text().replace("nets.ape_gan_networks", "nets.ape_gan_layers"))
    ran = _run(tree, store)
    assert ran.missing["any"] == []
    assert ran.records == first.records
    (line,) = ran.warnings
    assert "made by other code (defense ape-gan)" in line
    assert "made with" not in line
    own = {"purify", "score", "consistency-check", "gradient-probe"}
    on_copies = [["craft", "fgsm"]]
    assert ran.missing["same-code"] == sorted([[kind, "ape-gan"] for kind in own] + on_copies)


def test_same_code_also_computes_what_depends_on_changed_code(
    first: RunOfCopy, store: Path, tmp_path: Path
) -> None:
    """A score runs no code of the attack, but depends on its images."""
    tree = _copy(tmp_path, ("attacks/fgsm.py", "@attack(", "_UNUSED = 1\n\n\n@attack("))
    ran = _run(tree, store)
    assert ran.missing["any"] == []
    kinds = {kind for kind, _ in ran.missing["same-code"]}
    assert kinds == {"craft", "purify", "score"}
    assert "made by other code (attack fgsm)" in ran.warnings[0]


def test_a_raised_version_computes_only_dependent_results(
    first: RunOfCopy, store: Path, tmp_path: Path
) -> None:
    tree = _copy(
        tmp_path,
        ("defenses/median.py", "    control = True", "    version = 2\n    control = True"),
    )
    missing = {tuple(task) for task in _run(tree, store).missing["any"]}
    checks = {(kind, "median") for kind in ("purify", "score", "consistency-check", "gradient-probe")}
    assert missing == {*checks, ("craft", "fgsm")}


def test_a_target_and_a_source_of_equal_settings_have_different_weights(
    first: RunOfCopy, store: Path
) -> None:
    weights = {}
    for path in (store / "train-target" / "mnist-c").glob("*.json"):
        entry = json.loads(path.read_text())
        assert entry["meta"]["task"]["seed"] == 0
        tensors = load_file(path.with_name(entry["payload"]))
        weights[entry["meta"]["task"]["role"]] = tensors
    target, source = weights["target"], weights["source"]
    assert not any(torch.equal(target[name], source[name]) for name in target if target[name].dim() > 1)


def _lock_of_copy(folder: Path, *edits: Edit) -> Lock:
    """The content of the lock for a changed copy of the package."""
    tree = _copy(folder, *edits)
    for package in ("tests", "studies"):
        _copy_package(package, tree)
    lock: Lock = _python(tree, _LOCK)
    return lock


def test_a_new_parameter_with_a_default_changes_no_key_of_any_grid(tmp_path: Path) -> None:
    lock = _lock_of_copy(
        tmp_path,
        ("defenses/ape_gan.py", "    official_code:", "    extra: float = train(0.5)\n    official_code:"),
        ("defenses/jpeg.py", "    quality:", "    extra: float = infer(0.5)\n    quality:"),
        (
            "attacks/steps/iterative.py",
            "    alpha: float | None = p",
            "    extra: float = param(0.5)\n    alpha: float | None = p",
        ),
        ("targets/loading/recipe.py", "    epochs:", "    extra: float = 0.5\n    epochs:"),
    )
    assert lock["parameters"]["target mnist-c"]["defaults"]["extra"] == 0.5
    assert lock["parameters"]["attack pgd"]["defaults"]["extra"] == 0.5
    for part in ("keys", "seeds", "grids"):
        assert lock[part] == read()[part]
    assert sum(grid["cells"] for grid in lock["grids"].values()) > 10_000


def test_a_changed_default_and_changed_seeds_require_a_new_version(tmp_path: Path) -> None:
    lock = _lock_of_copy(
        tmp_path,
        ("defenses/bit_depth.py", "infer(3,", "infer(4,"),
        ("benchmark/storage/keys.py", ">> 1", ">> 2"),
    )
    refused = [finding.message for finding in compare(read(), lock) if finding.need == "version"]
    assert refused[0] == "the default of bits is 4 and was 3: raise the version of bit-depth"
    assert refused[1].startswith("the seeds of ")
    assert "moved, so that trainings and draws come out otherwise" in refused[1]


def _plan(store: Path, reuse: Any, threads: int, observer: Silent) -> PlannedRun:
    grid = GRID | {"targets": ["nearest-mean"], "source": "target", "defenses": ["identity"]}
    plugins = [REPOSITORY / "tests" / "plugin_files" / "toy.py"]
    return plan_run(
        grid, observer, store=store, device="cpu", zoo=False, plugins=plugins, reuse=reuse, threads=threads
    )


def test_results_with_another_number_of_threads_are_reused_by_default(tmp_path: Path) -> None:
    class Listener(Silent):
        warnings: list[str] = []  # noqa: RUF012

        def warn(self, message: str) -> None:
            self.warnings.append(message)

    first = _plan(tmp_path, "any", 1, Silent())
    execute(first.plan, first.context, Silent())
    counts = {}
    for reuse in ("any", "same-code", "same-environment"):
        planned = _plan(tmp_path, reuse, 2, Silent())
        counts[reuse] = len(split_by_store(planned.plan, planned.context)[0])
    tasks = len(first.plan.tasks)
    assert counts == {"any": 0, "same-code": 0, "same-environment": tasks}
    again = _plan(tmp_path, "any", 2, Listener())
    execute(again.plan, again.context, listener := Listener())
    assert listener.warnings == [
        f"from the store: {tasks} results made with threads 1 (--reuse says which results to take)"
    ]
