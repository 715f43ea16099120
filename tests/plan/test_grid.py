"""A grid is validated as a whole, and all mistakes are shown together, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import Problem, UserError
from benchmark.plan.grid import Grid, builtin_grids, find_grid, load_grid
from benchmark.plugins.registry import Registry, default_registry

GOOD = """\
name: good
datasets:
  - name: digits
    n: 100
targets: [mnist-b]
defenses:
  - identity
  - name: median
    size: 3
attacks:
  - name: pgd
    eps: 0.3
    steps: 40
threats:
  - black-box
  - white-box
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return default_registry()


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _problems(source: Any, registry: Registry) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        load_grid(source, registry)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return caught.value.problems


def _load(tmp_path: Path, text: str, registry: Registry) -> Grid:
    return load_grid(_write(tmp_path, text), registry)


def _mapping(**keys: Any) -> dict[str, Any]:
    return {
        "datasets": ["digits"],
        "targets": ["mnist-b"],
        "defenses": ["identity"],
        "attacks": [{"name": "fgsm", "eps": 0.1}],
        "threats": ["black-box"],
    } | keys


def _line_of(text: str, fragment: str) -> int:
    (line,) = (i for i, content in enumerate(text.splitlines(), 1) if fragment in content)
    return line


# Text to replace in GOOD, its replacement, and parts of the message. ⟨…⟩ marks the line at fault.
MISTAKES = {
    "misspelt top-level key": ("threats:", "⟨threat:⟩", ["unknown key 'threat'", "'threats'"]),
    "misspelt data set": ("name: digits", "⟨name: digit⟩", ["unknown dataset 'digit'", "'digits'"]),
    "misspelt target": ("[mnist-b]", "[⟨mnist-bb⟩]", ["unknown target 'mnist-bb'", "'mnist-b'"]),
    "misspelt defense": ("- identity", "- ⟨idenity⟩", ["unknown defense 'idenity'", "'identity'"]),
    "misspelt attack": ("name: pgd", "⟨name: pgdd⟩", ["unknown attack 'pgdd'", "'pgd'"]),
    "misspelt attack with its name last": (
        "- name: pgd\n    eps: 0.3",
        "- eps: 0.3\n    ⟨name: pgdd⟩",
        ["unknown attack 'pgdd'", "'pgd'"],
    ),
    "misspelt threat": ("- white-box", "- ⟨whitebox⟩", ["unknown threat 'whitebox'", "'white-box'"]),
    "misspelt parameter": ("steps: 40", "⟨step: 40⟩", ["attack pgd has no parameter 'step'", "steps"]),
    "list for a number": ("steps: 40", "⟨steps: [1, 2]⟩", ["attack pgd", "steps = [1, 2]", "integer"]),
    "misspelt target to craft on": (
        "steps: 40",
        "⟨craft_on: mnist-bb⟩",
        ["unknown target 'mnist-bb'", "'mnist-b'"],
    ),
    "wrong parameter of the target to craft on": (
        "steps: 40",
        "⟨craft_on: {name: mnist-b, epoch: 3}⟩",
        ["target mnist-b has no parameter 'epoch'"],
    ),
    "eps above 1": ("eps: 0.3", "⟨eps: 3⟩", ["attack pgd", "eps = 3", "less than or equal to 1"]),
    "eps below 0": ("eps: 0.3", "⟨eps: -0.1⟩", ["attack pgd", "eps = -0.1", "greater than or equal to 0"]),
    "one eps of a sweep": ("eps: 0.3", "⟨eps: [0.1, 3]⟩", ["attack pgd", "eps = 3", "less than or equal"]),
    "no eps in a sweep": ("eps: 0.3", "⟨eps: []⟩", ["eps is an empty list"]),
    "eps as text": ("eps: 0.3", '⟨eps: "0.3"⟩', ["attack pgd", "eps = '0.3'", "number"]),
    "eps not finite": ("eps: 0.3", "⟨eps: .nan⟩", ["attack pgd", "eps = nan", "finite"]),
    "whole number with a point": ("steps: 40", "⟨steps: 40.0⟩", ["attack pgd", "steps = 40.0", "integer"]),
    "true for a number": ("steps: 40", "⟨steps: true⟩", ["attack pgd", "steps = True", "integer"]),
    "no for false": ("steps: 40", "⟨random_start: no⟩", ["attack pgd", "random_start = 'no'", "boolean"]),
    "unknown backend": ("steps: 40", "⟨backend: folbox⟩", ["attack pgd", "backend = 'folbox'", "'foolbox'"]),
    "even window": ("size: 3", "⟨size: 4⟩", ["defense median", "size = 4", "must be odd"]),
    "parameters without a name": ("- name: median\n    size: 3", "- ⟨size: 3⟩", ["a defense is a name"]),
    "no data set": ("[mnist-b]", "⟨[]⟩", ["targets is empty"]),
    "name for a list": ("targets: [mnist-b]", "⟨targets: mnist-b⟩", ["targets must be a list", "'mnist-b'"]),
    "n of zero": ("n: 100", "⟨n: 0⟩", ["n must be a whole number above 0", "0"]),
    "n below zero": ("n: 100", "⟨n: -5⟩", ["n must be a whole number above 0", "-5"]),
    "n true": ("n: 100", "⟨n: true⟩", ["n must be a whole number above 0", "True"]),
    "n as text": ("n: 100", '⟨n: "100"⟩', ["n must be a whole number above 0", "'100'"]),
    "n not whole": ("n: 100", "⟨n: 1.5⟩", ["n must be a whole number above 0", "1.5"]),
    "n of a target": (
        "targets: [mnist-b]",
        "targets:\n  - name: mnist-b\n    ⟨n: 3⟩",
        ["target mnist-b has no parameter 'n'"],
    ),
    "n of an attack": ("steps: 40", "⟨n: 0⟩", ["n must be a whole number above 0"]),
    "seed below zero": ("name: good", "⟨seeds: [-1]⟩", ["seeds", "[-1]"]),
    "seed as text": ("name: good", '⟨seeds: ["a"]⟩', ["seeds", "['a']"]),
    "seed true": ("name: good", "⟨seeds: [true]⟩", ["seeds", "[True]"]),
    "one number for seeds": ("name: good", "⟨seeds: 3⟩", ["seeds must be lists", "3"]),
    "no seed": ("name: good", "⟨seeds: []⟩", ["seeds", "[]"]),
    "bad seeds of one kind": ("name: good", "⟨seeds: {attack: [x]}⟩", ["seeds", "['x']"]),
    "misspelt kind of seeds": (
        "name: good",
        "seeds:\n  target: [0]\n  ⟨defence: [1]⟩",
        ["unknown key 'defence'", "'defense'"],
    ),
    "bad source": ("name: good", "⟨source: itself⟩", ["source must be 'default', 'target' or", "'itself'"]),
    "bad source of a defense": ("size: 3", "⟨source: itself⟩", ["source must be 'default', 'target' or"]),
    "bad preset": (
        "- white-box",
        "- name: white-box\n    ⟨preset: thorough⟩",
        ["threat white-box", "preset = 'thorough'", "'fast'"],
    ),
    "no eps": ("- name: pgd\n    eps: 0.3", "- ⟨name: pgd⟩", ["attack pgd needs 'eps'"]),
    "no defense": (
        "defenses:\n  - identity\n  - name: median\n    size: 3",
        "⟨defenses: []⟩",
        ["defenses is empty: the grid has no cell"],
    ),
    "repeated key": ("- white-box", "- white-box\n⟨targets: [mnist-c]⟩", ['duplicate key "targets"']),
    "repeated parameter": ("steps: 40", "⟨eps: 0.4⟩", ['duplicate key "eps"']),
    "name that is a path": ("name: good", "⟨name: a/b⟩", ["name", "'a/b'"]),
    "name that is a number": ("name: good", "⟨name: 3⟩", ["name", "3"]),
}


CHAINS = {
    "empty": ("- ⟨chain: []⟩", ["chain must be a list of defenses, got []"]),
    "not a list": ("- ⟨chain: median⟩", ["chain must be a list of defenses, got 'median'"]),
    "nested": ("- chain:\n      - jpeg\n      - ⟨chain: [jpeg]⟩", ["chain has no place inside a chain"]),
    "n of a part": (
        "- chain:\n      - name: median\n        ⟨n: 5⟩\n      - jpeg",
        ["n has no place inside a chain"],
    ),
    "source of a part": (
        "- chain:\n      - median\n      - name: jpeg\n        ⟨source: target⟩",
        ["source has no place inside a chain"],
    ),
    "unknown part": (
        "- chain:\n      - jpeg\n      - ⟨medain⟩",
        ["unknown defense 'medain'", "did you mean 'median'"],
    ),
    "parameter of a part": (
        "- chain:\n      - jpeg\n      - name: median\n        ⟨size: 4⟩",
        ["defense median", "size = 4", "must be odd"],
    ),
    "unknown key beside it": ("- chain: [median]\n    ⟨size: 3⟩", ["unknown key 'size'"]),
    "n of the chain": ("- chain: [median]\n    ⟨n: 0⟩", ["n must be a whole number above 0"]),
    "part without a name": ("- chain:\n      - ⟨size: 3⟩", ["a defense is a name"]),
}
MISTAKES |= {f"chain: {name}": ("- name: median\n    size: 3", *case) for name, case in CHAINS.items()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_shown_with_its_line_and_the_nearest_name(
    tmp_path: Path, registry: Registry, mistake: str
) -> None:
    old, new, expected = MISTAKES[mistake]
    assert GOOD.count(old) == 1
    marked = GOOD.replace(old, new)
    path = _write(tmp_path, marked.replace("⟨", "").replace("⟩", ""))
    problems = _problems(path, registry)
    message = str(problems[0])
    assert message.startswith(f"{path}:{_line_of(marked, '⟨')}: ")
    for part in expected:
        assert part in message
    # A misspelt top-level key is also a missing key; any other mistake causes one message.
    assert len(problems) == (2 if mistake == "misspelt top-level key" else 1), problems


def test_restarts_that_a_backend_cannot_do_are_refused(tmp_path: Path, registry: Registry) -> None:
    text = GOOD.replace("steps: 40", "restarts: 3\n    backend: foolbox")
    path = _write(tmp_path, text)
    (problem,) = _problems(path, registry)
    assert str(problem).startswith(f"{path}:{_line_of(text, 'name: pgd')}: attack pgd: ")
    assert "restarts: backend foolbox has no such option" in str(problem)
    _load(tmp_path, text.replace("foolbox", "art"), registry)


def test_all_mistakes_are_shown_at_once(tmp_path: Path, registry: Registry) -> None:
    text = """\
colour: blue  # wrong
datasets:
  - name: digits
    n: 0  # wrong
targets: [mnist-b, mnist-d]  # wrong
defenses:
  - idenity  # wrong
  - name: median
    size: 4  # wrong
attacks:
  - name: pgd
    eps: 3  # wrong
    steps: [1, 2]  # wrong
    speed: 9  # wrong
  - {name: fgsm, eps: [0.1, 2, 0.3]}  # wrong
threats: [black-box, blackbox]  # wrong
seeds: [0.5]  # wrong
source: none  # wrong
"""
    path = _write(tmp_path, text)
    problems = _problems(path, registry)
    assert {problem.file for problem in problems} == {str(path)}
    wrong = [i for i, line in enumerate(text.splitlines(), 1) if "# wrong" in line]
    assert sorted(problem.line or 0 for problem in problems) == wrong


def test_every_missing_list_is_named(tmp_path: Path, registry: Registry) -> None:
    path = _write(tmp_path, "datasets: [digits]\ntargets: [mnist-b]\n")
    assert [(p.file, p.message) for p in _problems(path, registry)] == [
        (str(path), "defenses is missing"),
        (str(path), "attacks is missing"),
        (str(path), "threats is missing"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\ndatasets: [digits\ntargets: [mnist-b]\n", 3),
        ("name: a\ndatasets:\n\t- digits\n", 3),
        ('name: a\n"unclosed: [digits]\n', 3),
        ("name: a\nseeds: target: [0]\n", 2),
    ],
    ids=["bracket", "tab", "quote", "two colons"],
)
def test_a_file_that_is_not_yaml_is_shown_with_the_line(
    tmp_path: Path, registry: Registry, text: str, line: int
) -> None:
    path = _write(tmp_path, text)
    (problem,) = _problems(path, registry)
    assert str(problem).startswith(f"{path}:{line}: not valid YAML: ")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("- digits\n", "a list"), ("", "empty"), ("# nothing\n", "empty"), ("digits\n", "a str")],
)
def test_a_file_that_is_not_a_mapping_is_refused(
    tmp_path: Path, registry: Registry, text: str, kind: str
) -> None:
    path = _write(tmp_path, text)
    (problem,) = _problems(path, registry)
    assert str(problem).startswith(f"{path}:1: the file is {kind}; a grid is a mapping")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "grid.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    (problem,) = _problems(path, registry)
    assert str(problem) == f"{path}: cannot be read: not UTF-8 text"


def test_a_missing_file_is_refused_with_the_built_in_grids(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "missing.yaml"
    (problem,) = _problems(path, registry)
    assert str(path) in problem.message
    assert problem.hint == "`bench list grids` shows the built-in grids"
    for name in ("quik", "quik.yaml"):
        (problem,) = _problems(name, registry)
        assert f"{name!r} and no built-in grid" in problem.message
        assert problem.hint == "did you mean 'quick'?"


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("blocks: quick", "blocks must be a list of mappings"),
        ("blocks:\n  - quick", "a block must be a mapping"),
        ("blocks:\n  - datasets: [digits]\n    colour: blue", "unknown key 'colour'"),
        ("blocks: []\ndatasets: [digits]", "unknown key 'datasets'"),
        ("resources: {puvea: {memory: 4}}", "and 'puvea' is neither"),
        ("resources: {puvae: {memory: 0}}", "memory = 0: Input should be greater than 0"),
        ("resources: {puvae: {disk: 1}}", "has no parameter 'disk'"),
        ("resources: {puvae: 4}", "puvae must be a mapping"),
        ("resources: 4", "resources must be a mapping"),
    ],
)
def test_invalid_blocks_are_refused(tmp_path: Path, registry: Registry, blocks: str, message: str) -> None:
    path = _write(tmp_path, blocks + "\n")
    problems = _problems(path, registry)
    assert message in problems[0].message
    assert problems[0].line == len(blocks.splitlines())


def test_mistakes_in_blocks_have_their_own_lines(tmp_path: Path, registry: Registry) -> None:
    block = (
        "  - datasets: [digits]\n"
        "    targets: [{}]\n"
        "    defenses: [identity]\n"
        "    attacks: [noise]\n"
        "    threats: [black-box]\n"
    )
    path = _write(tmp_path, "blocks:\n" + block.format("mnist-x") + block.format("mnist-y"))
    first, second = _problems(path, registry)
    assert (first.line, first.message) == (3, "unknown target 'mnist-x'")
    assert (second.line, second.message) == (8, "unknown target 'mnist-y'")


@pytest.mark.parametrize("name", builtin_grids())
def test_every_built_in_grid_is_valid_and_has_the_name_of_its_file(registry: Registry, name: str) -> None:
    grid = load_grid(name, registry)
    assert grid.name == name
    assert grid.blocks


def test_a_file_takes_precedence_over_a_built_in_grid_of_its_name(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_grid("quick.yaml") == find_grid("quick")
    (tmp_path / "quick.yaml").write_text(GOOD)
    assert load_grid("quick.yaml", registry).name == "good"
    assert load_grid("quick", registry).name == "quick"


def test_a_good_grid_is_read_as_written(tmp_path: Path, registry: Registry) -> None:
    grid = _load(tmp_path, GOOD, registry)
    (block,) = grid.blocks
    assert grid.name == "good"
    assert [(c.name, c.n) for c in block.datasets] == [("digits", 100)]
    assert [c.name for c in block.targets] == ["mnist-b"]
    assert [[(c.name, c.config.model_dump()) for c in d.parts] for d in block.defenses] == [
        [("identity", {})],
        [("median", {"size": 3})],
    ]
    (attack,) = block.attacks
    assert attack.plugin.name == "pgd"
    assert attack.config.model_dump() == {
        "eps": 0.3,
        "distance": "linf",
        "steps": 40,
        "alpha": None,
        "loss": "ce",
        "restarts": 1,
        "random_start": True,
        "targeted": False,
        "backend": "native",
    }
    assert [(t.name, dict(t.config)) for t in block.threats] == [
        ("black-box", {"judge": "one"}),
        ("white-box", {"judge": "one", "preset": "fast", "eot": 10, "bank": 500}),
    ]
    assert block.seeds == {"target": (0,), "defense": (0,), "attack": (0,)}


def test_a_grid_without_a_name_gets_that_of_its_file(tmp_path: Path, registry: Registry) -> None:
    assert _load(tmp_path, GOOD.replace("name: good\n", ""), registry).name == "grid"


def test_a_mapping_from_python_is_a_grid(registry: Registry) -> None:
    grid = load_grid(_mapping(), registry)
    assert [c.config.model_dump() for c in grid.blocks[0].attacks] == [
        {"eps": 0.1, "targeted": False, "backend": "native"}
    ]


def test_mistakes_in_a_mapping_have_no_line(registry: Registry) -> None:
    first, second = _problems(_mapping(targets=["mnist-d"], color=1), registry)
    assert str(first) == "unknown key 'color'\n    " + str(first.hint)
    assert (second.file, second.line, second.message) == (None, None, "unknown target 'mnist-d'")


def test_a_list_of_eps_is_one_attack_per_value(tmp_path: Path, registry: Registry) -> None:
    grid = _load(tmp_path, GOOD.replace("eps: 0.3", "eps: [0.1, 0.2, 0.3]"), registry)
    configs = [attack.config.model_dump() for attack in grid.blocks[0].attacks]
    assert [config["eps"] for config in configs] == [0.1, 0.2, 0.3]
    assert {config["steps"] for config in configs} == {40}


def test_unaware_is_black_box(registry: Registry) -> None:
    plain = load_grid(_mapping(threats=["unaware"]), registry)
    mapped = load_grid(_mapping(threats=[{"name": "unaware", "judge": "one"}]), registry)
    for grid in (plain, mapped):
        assert [threat.name for threat in grid.blocks[0].threats] == ["black-box"]


def test_one_list_of_seeds_applies_to_all_kinds_and_a_mapping_to_each_kind(registry: Registry) -> None:
    (block,) = load_grid(_mapping(seeds=[0, 1]), registry).blocks
    assert block.seeds == {"target": (0, 1), "defense": (0, 1), "attack": (0, 1)}
    (block,) = load_grid(_mapping(seeds={"defense": [3, 1, 3], "attack": [7]}), registry).blocks
    assert block.seeds == {"target": (0,), "defense": (3, 1), "attack": (7,)}  # duplicates are dropped


def test_blocks_are_separate_products(registry: Registry) -> None:
    blocks = [_mapping(), _mapping(defenses=["median", "jpeg"], seeds=[5])]
    grid = load_grid({"name": "two", "blocks": blocks}, registry)
    assert [[[c.name for c in d.parts] for d in block.defenses] for block in grid.blocks] == [
        [["identity"]],
        [["median"], ["jpeg"]],
    ]
    assert [block.seeds["target"] for block in grid.blocks] == [(0,), (5,)]


def test_n_limits_a_defense_or_an_attack(registry: Registry) -> None:
    grid = load_grid(
        _mapping(defenses=["jpeg", {"name": "median", "n": 20}], attacks=[{"name": "noise", "n": 30}]),
        registry,
    )
    assert [defense.n for defense in grid.blocks[0].defenses] == [None, 20]
    assert [attack.n for attack in grid.blocks[0].attacks] == [30]


def test_the_source_is_set_for_all_defenses_or_for_one(registry: Registry) -> None:
    defenses = ["identity", {"name": "ape-gan", "source": "target"}]

    def sources(**keys: str) -> list[bool]:
        grid = load_grid(_mapping(defenses=defenses, **keys), registry)
        return [defense.source == "target" for defense in grid.blocks[0].defenses]

    assert sources() == [False, True]
    assert sources(source="default") == [False, True]
    assert sources(source="target") == [True, True]


def test_numbers_and_words_follow_yaml_1_2(tmp_path: Path, registry: Registry) -> None:
    text = GOOD.replace("eps: 0.3", "eps: 1e-3").replace("name: good", "name: no")
    grid = _load(tmp_path, text, registry)
    assert grid.name == "no"
    assert grid.blocks[0].attacks[0].config.model_dump()["eps"] == 0.001


def test_a_whole_number_is_a_valid_eps(registry: Registry) -> None:
    (attack,) = load_grid(_mapping(attacks=[{"name": "fgsm", "eps": 1}]), registry).blocks[0].attacks
    eps = attack.config.model_dump()["eps"]
    assert eps == 1
    assert isinstance(eps, float)


def test_a_parameter_in_no_accepted_form_is_refused_without_a_regular_expression(registry: Registry) -> None:
    (problem,) = _problems(_mapping(threats=[{"name": "white-box", "judge": "mean"}]), registry)
    assert problem.message == "threat white-box: judge = 'mean': not in one of the accepted forms"
    assert problem.hint == "`bench show white-box` describes this parameter"
