"""`versions.lock`: code that changes makes somebody decide whether its results do."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.registry import KINDS, default_registry
from tests import lock, lock_contents
from tests.lock_contents import GIVEN, Lock, compare, contents, exempt, figures, read, report, title
from tests.lock_outcomes import construct, planned, titles

APE, PUVAE = "defense ape-gan", "defense puvae"


@pytest.fixture
def here() -> Lock:
    """What the code would say if it were as the lock has it."""
    return copy.deepcopy(read())


def _messages(here: Lock, need: str | None = None) -> list[str]:
    return [finding.message for finding in compare(read(), here) if need in (None, finding.need)]


def test_the_lock_is_that_of_the_code() -> None:
    findings = compare(read(), contents())
    assert not findings, f"\n{report(findings)}"


def test_the_golden_figures_come_out() -> None:
    """Exact where the lock was made; another processor or release of torch rounds otherwise."""
    found, known = figures(), read()["figures"]
    assert found.keys() == known.keys()
    assert max(known.values()) > 20, "attacks that break nothing show nothing"
    assert {name: abs(found[name] - known[name]) <= 2 for name in known} == dict.fromkeys(known, True)


def test_all_that_is_built_in_has_a_golden_outcome_or_is_exempt(tmp_path: Path) -> None:
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


def test_changed_code_asks_for_a_version_or_a_proof(here: Lock) -> None:
    here["versions"][APE]["code"] = "0" * 16
    assert _messages(here) == [
        "results of ape-gan may change: raise its version, or run `make lock` if they do not"
    ]


def test_much_changed_code_is_one_line(here: Lock) -> None:
    for entry in here["versions"].values():
        entry["code"] = "0" * 16
    more = len(here["versions"]) - 4
    assert report(compare(read(), here)) == (
        f"results of advgan, apgd-ce, apgd-dlr-targeted, bim and {more} more may change: raise the versions "
        "of those that do, and run `make lock`"
    )


def test_a_raised_version_asks_for_the_lock_alone(here: Lock) -> None:
    here["versions"][APE] = {"version": 2, "code": "0" * 16}
    here["parameters"][APE]["defaults"]["lr"] = 1.0
    assert _messages(here) == ["the version of ape-gan is 2 and was 1: run `make lock`"]
    assert _messages(here, "lock") == _messages(here)


def test_a_version_never_sinks(here: Lock) -> None:
    here["versions"][APE]["version"] = 0
    assert _messages(here, "version") == ["the version of ape-gan is 0 and was 1: raise it"]


def test_a_plugin_that_is_not_in_the_lock_asks_for_it(here: Lock) -> None:
    here["versions"]["defense new"] = {"version": 1, "code": "0" * 16}
    del here["versions"]["attack pgd"]
    assert _messages(here) == [
        "defense new is not in versions.lock: run `make lock`",
        "attack pgd is in versions.lock and nowhere else: run `make lock`",
    ]


def test_a_changed_default_asks_for_a_version(here: Lock) -> None:
    here["parameters"][APE]["defaults"]["min_steps"] = 100
    assert _messages(here) == ["the default of min_steps is 100 and was 150: raise the version of ape-gan"]
    assert _messages(here, "version") == _messages(here)


def test_a_changed_preset_and_a_changed_data_set_are_named(here: Lock) -> None:
    """Keys hold these values, so that nobody gets old results: no version is needed."""
    here["parameters"][APE]["preset paper"]["lr"] = 0.5
    here["parameters"][PUVAE]["on cifar10"]["samples"] = 3
    of_ape, of_puvae = _messages(here, "lock")
    assert of_ape.startswith("lr of ape-gan, preset paper, is 0.5 and was 0.0002, so that its results there")
    assert of_puvae.startswith("samples of puvae, on cifar10, is 3 and was 1")


def test_a_new_parameter_asks_for_the_lock_alone(here: Lock) -> None:
    here["parameters"][APE]["defaults"]["extra"] = None
    assert _messages(here) == ["parameters of ape-gan come or go: extra: run `make lock`"]


@pytest.mark.parametrize("what", ["keys", "seeds"])
def test_moved_keys_and_seeds_are_refused_under_the_same_schema(here: Lock, what: str) -> None:
    name = "train-target mnist-c"
    here[what][name] = here[what][name][::-1] if what == "keys" else here[what][name] >> 1
    (message,) = _messages(here, "version")
    assert message.startswith(f"the {what} of {name} moved, so that")
    here["schema"] += 1
    assert _messages(here) == [f"the {what} of {name} moved: run `make lock`"]


def test_keys_may_move_with_a_version_and_seeds_never(here: Lock) -> None:
    here["versions"]["target mnist-c"]["version"] = 2
    here["keys"]["train-target mnist-c"] = "0"
    assert not _messages(here, "version")
    here["seeds"]["train-target mnist-c"] = 0
    assert len(_messages(here, "version")) == 1


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


def test_the_first_outcome_that_differs_is_named_and_not_what_follows() -> None:
    parts = {"images": "0", "weights": "2"}
    after = {**BEFORE, **{key: {**BEFORE[key], "parts": parts} for key in "ab"}}
    assert lock.differences(BEFORE, after, {APE}, renewed=False) == [
        "train-defense of ape-gan on digits differs in weights: raise a version "
        "(it runs what changed: ape-gan)"
    ]


def test_what_cannot_be_compared_is_no_proof(capsys: pytest.CaptureFixture[str]) -> None:
    after = {"x": BEFORE["a"], "c": BEFORE["c"]}
    reasons = ["there is no outcome to compare of ape-gan: raise the version"]
    assert lock.differences(BEFORE, after, {APE, "attack pgd"}, renewed=False) == reasons
    assert lock.differences(BEFORE, after, {APE, "attack pgd"}, renewed=True) == []
    assert "not compared, for what it rests on has another version: ape-gan" in capsys.readouterr().out


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A repository whose golden program gives what the file `value` says, and its code as the lock says."""

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def make(here: Lock, before: str, after: str) -> Path:
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
        monkeypatch.setattr(lock, "contents", lambda: {k: v for k, v in here.items() if k != "figures"})
        monkeypatch.setattr(lock, "figures", lambda: here["figures"])
        return tmp_path / "versions.lock"

    return make


def test_make_lock_takes_code_that_gives_the_same(here: Lock, repository: Callable[..., Path]) -> None:
    here["versions"][APE]["code"] = "0" * 16
    path = repository(here, "same", "same")
    lock.main()
    assert json.loads(path.read_text()) == here


def test_make_lock_refuses_code_that_gives_something_else(
    here: Lock, repository: Callable[..., Path]
) -> None:
    here["versions"][APE]["code"] = "0" * 16
    path = repository(here, "one", "two")
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="purify of ape-gan on digits differs in weights") as caught:
        lock.main()
    assert caught.value.code != 0
    assert path.read_bytes() == before


def test_make_lock_takes_a_raised_version_and_refuses_a_changed_default(
    here: Lock, repository: Callable[..., Path]
) -> None:
    here["versions"][APE] = {"version": 2, "code": "0" * 16}
    path = repository(here, "one", "two")
    lock.main()
    assert json.loads(path.read_text())["versions"][APE]["version"] == 2
    here["parameters"][PUVAE]["defaults"]["latent"] = 51
    with pytest.raises(
        SystemExit, match="the default of latent is 51 and was 50: raise the version of puvae"
    ):
        lock.main()
