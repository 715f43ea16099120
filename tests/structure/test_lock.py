"""`versions.lock`: code that changes makes somebody decide whether its results do."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.plugins.registry import KINDS, default_registry
from tests import lock, lock_contents
from tests.lock_contents import GIVEN, Lock, compare, contents, exempt, figures, read, report, title
from tests.lock_outcomes import construct, planned, titles

APE, PUVAE = "defense ape-gan", "defense puvae"


@pytest.fixture
def current() -> Lock:
    """The contents of the lock, as if computed from the present code; tests change them."""
    return copy.deepcopy(read())


def _messages(current: Lock, need: str | None = None) -> list[str]:
    return [finding.message for finding in compare(read(), current) if need in (None, finding.need)]


def test_the_lock_is_that_of_the_code() -> None:
    findings = compare(read(), contents())
    assert not findings, f"\n{report(findings)}"


def test_the_golden_figures_come_out() -> None:
    """Equal on the machine of the lock; other processors and releases of torch round differently."""
    found, known = figures(), read()["figures"]
    assert found.keys() == known.keys()
    assert max(known.values()) > 20, "attacks that break nothing test nothing"
    assert {name: abs(found[name] - known[name]) <= 2 for name in known} == dict.fromkeys(known, True)


def test_every_builtin_plugin_has_a_golden_outcome_or_is_exempt(tmp_path: Path) -> None:
    construct(tmp_path)
    covered = {
        name for prepared in planned(tmp_path) for task in prepared.plan.tasks for name in titles(task)
    }
    covered |= {"dataset digits", "dataset npz", "dataset folder"}  # whose images are outcomes
    registry = default_registry()
    entries = [entry for kind in KINDS for entry in registry.entries(kind) if entry.builtin]
    excused = {title(entry) for entry in entries if exempt(entry)} | GIVEN.keys()
    assert read()["versions"].keys() - covered == excused
    assert read()["exempt"].keys() == excused
    assert len(excused) < len(covered) / 3


def test_changed_code_requires_a_version_or_a_proof(current: Lock) -> None:
    current["versions"][APE]["code"] = "0" * 16
    assert _messages(current) == [
        "results of ape-gan may change: raise its version, or run `make lock` if they do not"
    ]


def test_many_changes_are_reported_in_one_line(current: Lock) -> None:
    for entry in current["versions"].values():
        entry["code"] = "0" * 16
    more = len(current["versions"]) - 4
    assert report(compare(read(), current)) == (
        f"results of advgan, apgd-ce, apgd-dlr-targeted, bim and {more} more may change: raise the versions "
        "of those that do, and run `make lock`"
    )


def test_a_raised_version_requires_only_a_new_lock(current: Lock) -> None:
    current["versions"][APE] = {"version": 2, "code": "0" * 16}
    current["parameters"][APE]["defaults"]["lr"] = 1.0
    assert _messages(current) == ["the version of ape-gan is 2 and was 1: run `make lock`"]
    assert _messages(current, "lock") == _messages(current)


def test_a_version_never_decreases(current: Lock) -> None:
    current["versions"][APE]["version"] = 0
    assert _messages(current, "version") == ["the version of ape-gan is 0 and was 1: raise it"]


def test_a_plugin_that_is_not_in_the_lock_requires_a_new_lock(current: Lock) -> None:
    current["versions"]["defense new"] = {"version": 1, "code": "0" * 16}
    del current["versions"]["attack pgd"]
    assert _messages(current) == [
        "defense new is not in versions.lock: run `make lock`",
        "attack pgd is in versions.lock and nowhere else: run `make lock`",
    ]


def test_a_changed_default_requires_a_version(current: Lock) -> None:
    current["parameters"][APE]["defaults"]["min_steps"] = 100
    assert _messages(current) == ["the default of min_steps is 100 and was 150: raise the version of ape-gan"]
    assert _messages(current, "version") == _messages(current)


def test_a_changed_preset_and_a_changed_data_set_are_named(current: Lock) -> None:
    """Keys contain these values, so old results are not used: no version is needed."""
    current["parameters"][APE]["preset paper"]["lr"] = 0.5
    current["parameters"][PUVAE]["on cifar10"]["samples"] = 3
    of_ape, of_puvae = _messages(current, "lock")
    assert of_ape.startswith("lr of ape-gan, preset paper, is 0.5 and was 0.0002, so that its results there")
    assert of_puvae.startswith("samples of puvae, on cifar10, is 3 and was 1")


def test_a_new_parameter_requires_only_a_new_lock(current: Lock) -> None:
    current["parameters"][APE]["defaults"]["extra"] = None
    assert _messages(current) == ["parameters of ape-gan come or go: extra: run `make lock`"]


@pytest.mark.parametrize("what", ["keys", "seeds"])
def test_changed_keys_and_seeds_are_refused_under_the_same_schema(current: Lock, what: str) -> None:
    name = "train-target mnist-c"
    current[what][name] = current[what][name][::-1] if what == "keys" else current[what][name] >> 1
    (message,) = _messages(current, "version")
    assert message.startswith(f"the {what} of {name} moved, so that")
    current["schema"] += 1
    assert _messages(current) == [f"the {what} of {name} moved: run `make lock`"]


def test_keys_may_change_with_a_version_and_seeds_never(current: Lock) -> None:
    current["versions"]["target mnist-c"]["version"] = 2
    current["keys"]["train-target mnist-c"] = "0"
    assert not _messages(current, "version")
    current["seeds"]["train-target mnist-c"] = 0
    assert len(_messages(current, "version")) == 1


def _outcome(name: str, of: list[str], value: str = "1", needs: tuple[str, ...] = ()) -> dict[str, Any]:
    parts = {"images": "0", "weights": value}
    return {"name": name, "dataset": "digits", "of": of, "needs": list(needs), "parts": parts}


BEFORE = {
    "a": _outcome("train-defense of ape-gan", ["task train-defense", APE]),
    "b": _outcome("purify of ape-gan", ["task purify", APE], needs=("a",)),
    "c": _outcome("craft of pgd", ["task craft", "attack pgd"]),
}


def test_equal_outcomes_are_a_proof() -> None:
    assert lock.differences(BEFORE, BEFORE, {APE, "task craft"}, renewed=False) == []


def test_only_the_first_different_outcome_is_named() -> None:
    parts = {"images": "0", "weights": "2"}
    after = {**BEFORE, **{key: {**BEFORE[key], "parts": parts} for key in "ab"}}
    assert lock.differences(BEFORE, after, {APE}, renewed=False) == [
        "train-defense of ape-gan on digits differs in weights: raise a version "
        "(it runs what changed: ape-gan)"
    ]


def test_an_outcome_that_cannot_be_compared_is_no_proof(capsys: pytest.CaptureFixture[str]) -> None:
    after = {"x": BEFORE["a"], "c": BEFORE["c"]}
    reasons = ["there is no outcome to compare of ape-gan: raise the version"]
    assert lock.differences(BEFORE, after, {APE, "attack pgd"}, renewed=False) == reasons
    assert lock.differences(BEFORE, after, {APE, "attack pgd"}, renewed=True) == []
    assert "not compared, because a version that it depends on was raised: ape-gan" in capsys.readouterr().out


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a repository whose golden program writes another value before and after a change."""

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def make(current: Lock, before: str, after: str) -> Path:
        program = tmp_path / "tests" / "lock_outcomes.py"
        program.parent.mkdir()
        (tmp_path / "tests" / "__init__.py").write_text("")
        outcome = _outcome("purify of ape-gan", [APE], "VALUE")
        program.write_text(f"import sys\nopen(sys.argv[1], 'w').write({json.dumps({'a': outcome})!r})\n")
        program.write_text(text := program.read_text().replace("VALUE", before))
        (tmp_path / "versions.lock").write_bytes(lock_contents.LOCK.read_bytes())
        git("init", "-q")
        git("add", ".")
        git("commit", "-qm", "lock")
        program.write_text(text.replace(before, after))
        for module in (lock, lock_contents):
            monkeypatch.setattr(module, "REPOSITORY", tmp_path)
            monkeypatch.setattr(module, "LOCK", tmp_path / "versions.lock")
        monkeypatch.setattr(lock, "contents", lambda: {k: v for k, v in current.items() if k != "figures"})
        monkeypatch.setattr(lock, "figures", lambda: current["figures"])
        return tmp_path / "versions.lock"

    return make


def test_make_lock_accepts_code_with_equal_outcomes(current: Lock, repository: Callable[..., Path]) -> None:
    current["versions"][APE]["code"] = "0" * 16
    path = repository(current, "same", "same")
    lock.main()
    assert json.loads(path.read_text()) == current


def test_make_lock_refuses_code_with_other_outcomes(current: Lock, repository: Callable[..., Path]) -> None:
    current["versions"][APE]["code"] = "0" * 16
    path = repository(current, "one", "two")
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="purify of ape-gan on digits differs in weights") as caught:
        lock.main()
    assert caught.value.code != 0
    assert path.read_bytes() == before


def test_make_lock_accepts_a_raised_version_and_refuses_a_changed_default(
    current: Lock, repository: Callable[..., Path]
) -> None:
    current["versions"][APE] = {"version": 2, "code": "0" * 16}
    path = repository(current, "one", "two")
    lock.main()
    assert json.loads(path.read_text())["versions"][APE]["version"] == 2
    current["parameters"][PUVAE]["defaults"]["latent"] = 51
    with pytest.raises(
        SystemExit, match="the default of latent is 51 and was 50: raise the version of puvae"
    ):
        lock.main()
