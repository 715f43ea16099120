"""`make mutants`: which changes it tries, which ones it samples, and what it calls noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies import REPOSITORY
from studies.mutants.__main__ import sample
from studies.mutants.mutations import Mutant, mutants_of, parses
from studies.mutants.places import PLACES, Place
from studies.mutants.trials import Copy

SOURCE = '''"""A module — with text."""

LIMIT: float = 0.01


@decorate(level=3)
def count(values: list[int], most: int = 2) -> int:
    """Count."""
    assert values, "none"
    total = 0
    for value in values[:most]:
        if value > LIMIT and not skip(value):
            total += value
            continue
    if total is None:
        raise ValueError(f"none of {1 + 2}")
    return -max(total, param(7))
'''


def changes(source: str = SOURCE) -> dict[str, set[str]]:
    """The changed lines by kind."""
    found: dict[str, set[str]] = {}
    for mutant in mutants_of("x.py", source):
        found.setdefault(mutant.kind, set()).add(mutant.after)
    return found


def test_each_kind_of_change() -> None:
    condition = "if value > LIMIT and not skip(value):"
    assert changes() == {
        "constant": {
            "LIMIT: float = 0.02",
            "LIMIT: float = 0.005",
            "def count(values: list[int], most: int = 3) -> int:",
            "def count(values: list[int], most: int = 1) -> int:",
            "total = 1",
        },
        "comparison": {
            "if value >= LIMIT and not skip(value):",
            "if value <= LIMIT and not skip(value):",
            "if total is not None:",
        },
        "logic": {"if value > LIMIT or not skip(value):"},
        "dropped condition": {"if (value > LIMIT):", "if (not skip(value)):"},
        "negated": {f"if (not ({condition[3:-1]})):"},
        "dropped operator": {
            "if value > LIMIT and (skip(value)):",
            "return (max(total, param(7)))",
        },
        "dropped bound": {"for value in values[:]:"},
        "arithmetic": {"total -= value"},
        "dropped statement": {"pass"},
        "other call": {"return -min(total, param(7))"},
    }


def test_a_mutant_changes_one_place_and_says_where() -> None:
    mutants = mutants_of("x.py", SOURCE)
    (limit,) = (m for m in mutants if m.after == "LIMIT: float = 0.02")
    assert limit.apply(SOURCE) == SOURCE.replace("0.01", "0.02")
    assert (limit.line, limit.scope, limit.before) == (3, "", "LIMIT: float = 0.01")
    (other,) = (m for m in mutants if m.after == "total = 1")
    assert other.scope == "count"
    assert all(parses(m.apply(SOURCE)) for m in mutants)


def test_a_mutant_keeps_its_key_if_other_lines_change() -> None:
    keys = {m.key for m in mutants_of("x.py", SOURCE)}
    assert len(keys) == len(mutants_of("x.py", SOURCE))
    moved = {m.key for m in mutants_of("x.py", SOURCE.replace("total = 0", "total = 0\n    print(total)"))}
    assert keys < moved
    twice = mutants_of("x.py", "a = 5\na = 5\n")
    assert len({m.key for m in twice}) == len(twice) == 4


def jobs(*counts: int) -> list[tuple[Place, Mutant]]:
    """Mutants of the files of some places, with the given numbers."""
    return [
        (place, Mutant(place.path, "", number, "x", 0, 0, "", f"line {number}", ""))
        for place, count in zip(PLACES, counts, strict=False)
        for number in range(count)
    ]


def test_a_sample_is_spread_over_the_files() -> None:
    chosen = sample(jobs(50, 50, 3), 13, seed=0)
    by_file = [sum(place is PLACES[i] for place, _ in chosen) for i in range(3)]
    assert by_file == [5, 5, 3]
    assert chosen == sample(list(reversed(jobs(50, 50, 3))), 13, seed=0)
    assert chosen != sample(jobs(50, 50, 3), 13, seed=1)
    assert {m.key for _, m in sample(jobs(49, 50, 3), 13, seed=0)} >= {
        m.key for p, m in chosen if p is not PLACES[0]
    }


def test_every_place_and_every_test_of_a_place_exists() -> None:
    for place in PLACES:
        assert (REPOSITORY / place.path).is_file()
        for test in (*place.tests, *place.slower):
            assert not test.startswith("tests/") or (REPOSITORY / test.partition("::")[0]).exists(), test


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    repository: Path = tmp_path_factory.mktemp("mutants") / "small"
    (repository / "tests").mkdir(parents=True)
    (repository / "code.py").write_text(
        "def sign(x):\n    while x > 5:\n        x = x - 1\n    return x >= 0\n"
    )
    test = "from code import sign\n\ndef test_sign():\n    assert sign(1) and sign(9) and not sign(-1)\n"
    (repository / "tests" / "test_code.py").write_text(test)
    (repository / "tests" / "test_broken.py").write_text("def test_broken():\n    assert False\n")
    return Copy(repository, repository.parent, libraries=("pytest",), spare=1.0)


def test_a_mutant_is_killed_survives_or_hangs(copy: Copy) -> None:
    tests, before = ["tests/test_code.py"], (copy.folder / "code.py").read_bytes()
    tried = ("return x > 0", "return x < 0", "x = x + 1", "while x >= 5:")
    outcomes = {}
    with copy:
        for mutant in (m for m in mutants_of("code.py", before.decode()) if m.after in tried):
            trial = copy.try_mutant(mutant, tests)
            outcomes[mutant.after] = (trial.outcome, trial.test.rpartition("::")[2])
        with pytest.raises(RuntimeError, match=r"without a mutant, .*test_broken is killed"):
            copy.unchanged(["tests/test_broken.py"])
    assert (copy.folder / "code.py").read_bytes() == before
    survived = ("survived", "")
    assert outcomes == dict(
        zip(tried, (survived, ("killed", "test_sign"), ("hung", ""), survived), strict=True)
    )
