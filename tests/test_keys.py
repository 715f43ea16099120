"""Keys follow from content: pinned, because a key that moves throws away everybody's stored results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmark.keys import canonical, digest, seed_from
from benchmark.tasks import (
    AttackRef,
    Candidate,
    Craft,
    DatasetRef,
    DefenseRef,
    PluginRef,
    Probe,
    Protocol,
    Purifier,
    Purify,
    Score,
    Shard,
    SurfaceSpec,
    Task,
    TrainDefense,
    TrainTarget,
)

KINDS = ("train-target", "train-defense", "probe", "craft", "purify", "score")
PROTOCOL = Protocol(code=dict.fromkeys(KINDS, "0" * 8))
DATASET = DatasetRef("digits", {}, "d" * 8, images="1" * 8, test_size=500)
CLASSIFIER = PluginRef("mnist-b", {"epochs": 4, "lr": 0.001}, "b" * 8)
SOURCE = PluginRef("mnist-c", {"epochs": 4, "lr": 0.001}, "c" * 8)
DEFENSE = DefenseRef(
    "toy",
    {"width": 8, "strength": 0.5},
    "e" * 8,
    trainable=True,
    train_fields=frozenset({"width"}),
)
ATTACK = AttackRef(
    "fgsm",
    {"eps": 0.1, "clip": True},
    "f" * 8,
    norm="linf",
    eps=0.1,
    takes_start=True,
    shares_sweep=True,
    sweep_fields=frozenset({"eps"}),
)
FIRST, SECOND = Shard(DATASET, 0, 100), Shard(DATASET, 100, 200)


def _target(protocol: Protocol = PROTOCOL, **changes: Any) -> TrainTarget:
    return replace(TrainTarget(protocol, DATASET, CLASSIFIER, "target", 0), **changes)


def _training(defense: DefenseRef = DEFENSE, **changes: Any) -> TrainDefense:
    source = TrainTarget(PROTOCOL, DATASET, SOURCE, "source", 0)
    return replace(TrainDefense(PROTOCOL, DATASET, defense, source, 0), **changes)


def _purifier(defense: DefenseRef = DEFENSE, **changes: Any) -> Purifier:
    return replace(Purifier(defense, _training(defense), None), **changes)


def _craft(form: str = "target", defense: DefenseRef = DEFENSE, **changes: Any) -> Craft:
    surface = SurfaceSpec(form, _target(), None if form == "target" else _purifier(defense))
    return replace(Craft(PROTOCOL, ATTACK, surface, FIRST, None), **changes)


def _purify(defense: DefenseRef = DEFENSE, images: Craft | None = None, **changes: Any) -> Purify:
    return replace(Purify(PROTOCOL, _purifier(defense), FIRST, images), **changes)


def _score(**changes: Any) -> Score:
    craft = _craft()
    score = Score(
        PROTOCOL,
        target=_target(),
        purifier=_purifier(),
        attack=ATTACK,
        shard=FIRST,
        judge="one",
        candidates=(Candidate("target-only", craft, _purify(images=craft)),),
        baseline=craft,
        clean=_purify(),
    )
    return replace(score, **changes)


def _with(ref: Any, **config: Any) -> Any:
    return replace(ref, config=dict(ref.config) | config)


def _stronger() -> AttackRef:
    return replace(_with(ATTACK, eps=0.2), eps=0.2)


def test_canonical_text_is_fixed() -> None:
    value = {"b": [1, 1.0, 0.1, True, None], "a": {"é": "L∞", "A": -1e-07}}
    assert canonical(value) == ('{"a":{"A":-1e-07,"\\u00e9":"L\\u221e"},"b":[1,1.0,0.1,true,null]}')


def test_digest_is_fixed() -> None:
    assert (
        digest({"b": [1, 0.5, None], "a": "L∞"})
        == "5653a6fea064ef4aa2f90f23fde584b7786b11c92cf9e2db5cb39162d10b103e"
    )
    assert seed_from("craft", {"seed": 0}, False) == 7612735501733354170


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"eps": value})


def test_what_json_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError):
        digest({"eps": {0.1, 0.2}})


def test_seeds_fit_all_generators_and_differ() -> None:
    seeds = [seed_from("craft", i) for i in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


GOLDEN: dict[str, tuple[Any, str]] = {
    "target": (_target(), "4d7511b3bdff5e6d4c049492aa021b6e43de0643c70339a1c1e0b9633e12ce4b"),
    "training": (_training(), "67a1f1900952a00ec7e00a1d3d0b16767bf4f143e365a2af2a20c6fd9e347c86"),
    "purifier": (_purifier(), "59f10ab57803ab01494ea14d0be448423d0a997c2ec4a168bf929634457c29bd"),
    "surface": (
        _craft("pipeline").surface,
        "bcd79c159583bba8fc567a9f78d7ff54622f670aeba69bc94056b907d36aa54e",
    ),
    "probe": (
        Probe(PROTOCOL, _craft("pipeline").surface, FIRST),
        "34502a1a78181d142fb69411f2b4453a02bd3ccddea757ed505a59b745ce7235",
    ),
    "craft on the target": (_craft(), "0e20bfc5b890bead6784a577634e95dbbe05f32e5fc8037901b056aea9029b98"),
    "craft on the pipeline": (
        _craft("pipeline", seed=3, start=_craft(seed=3)),
        "9ab7c5618a646657ab315ead9c989364c19d5a2aed8392a7a2270100ed24c84e",
    ),
    "purify clean": (_purify(), "e2f1b3987dae274870891bf30c99a6eebd3f8bbdd59480884ca1c3de49d16540"),
    "purify images": (
        _purify(images=_craft()),
        "ffd29841b0e9c38c1dfc7c0ac2217ae8097f8efabbfab6ba35b935c085fc0233",
    ),
    "score": (_score(), "1f66c7a1fa483ea5028b54f00f10b439125b47617d0ba779fef67ee7adc8de22"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_keys_are_fixed(name: str) -> None:
    """If this fails, stored results would no longer be found: only a change of meaning may do that."""
    task, key = GOLDEN[name]
    assert task.key == key


def test_keys_do_not_depend_on_how_the_content_was_built() -> None:
    turned = replace(DEFENSE, config=dict(reversed(DEFENSE.config.items())))
    assert _purify(turned).key == _purify().key
    assert _training(turned).key == _training().key


def test_a_parameter_that_acts_after_training_retrains_nothing_and_purifies_anew() -> None:
    changed = _with(DEFENSE, strength=0.75)
    assert _training(changed).key == _training().key
    assert _purify(changed).key != _purify().key
    assert _craft("pipeline", changed).key != _craft("pipeline").key


def test_a_parameter_of_training_retrains_and_purifies_anew() -> None:
    changed = _with(DEFENSE, width=16)
    assert _training(changed).key != _training().key
    assert _purify(changed).key != _purify().key


def test_new_weights_are_purified_with_anew() -> None:
    """The defense is the same; its training had another seed or another source."""
    for training in (_training(seed=1), _training(source=_target())):
        assert training.key != _training().key
        assert _purify(purifier=_purifier(training=training)).key != _purify().key


def test_facts_that_change_no_result_change_no_key() -> None:
    assert _training(replace(DEFENSE, gate=0.1, control=True)).key == _training().key
    assert _purify(replace(DEFENSE, gate=0.1, control=True)).key == _purify().key
    assert _craft(attack=replace(ATTACK, mandatory=True)).key == _craft().key


def test_another_eps_is_another_craft_of_the_same_sweep() -> None:
    stronger = _craft(attack=_stronger())
    assert stronger.key != _craft().key
    assert stronger.sweep == _craft().sweep
    assert stronger.sweep is not None


@pytest.mark.parametrize(
    "other",
    [
        _craft(attack=_with(ATTACK, clip=False)),
        _craft(attack=replace(ATTACK, code="0" * 8)),
        _craft(shard=SECOND),
        _craft(seed=1),
        _craft("pipeline"),
    ],
    ids=["parameter", "code", "shard", "seed", "surface"],
)
def test_only_crafts_that_differ_in_swept_fields_share_a_sweep(other: Craft) -> None:
    assert other.key != _craft().key
    assert other.sweep != _craft().sweep


def test_what_cannot_be_shared_is_in_no_sweep() -> None:
    assert _craft(attack=replace(ATTACK, shares_sweep=False)).sweep is None
    assert _craft("pipeline", start=_craft()).sweep is None


def test_images_made_on_the_bare_target_serve_every_defense() -> None:
    other = replace(DEFENSE, name="another", code="9" * 8, config={"width": 1})
    assert _craft("target", other).key == _craft("target").key
    assert _craft("pipeline", other).key != _craft("pipeline").key
    needed = {need.kind for need in _craft("target").needs()}
    assert needed == {"train-target"}


def test_the_noise_of_an_attack_is_the_same_for_every_shard() -> None:
    first, second = _craft(shard=FIRST), _craft(shard=SECOND)
    assert first.key != second.key
    assert first.noise_seed == second.noise_seed


def test_the_noise_of_an_attack_is_another_for_each_seed_surface_and_start() -> None:
    crafts = [
        _craft(),
        _craft(seed=0),
        _craft(seed=1),
        _craft("pipeline"),
        _craft("pipeline-bpda-identity"),
        _craft("pipeline", start=_craft()),
        _craft(attack=_stronger()),
    ]
    assert len({craft.noise_seed for craft in crafts}) == len(crafts)


@pytest.mark.parametrize(
    "changed",
    [
        _score(target=_target(seed=1)),
        _score(purifier=_purifier(_with(DEFENSE, strength=0.75))),
        _score(attack=_stronger()),
        _score(shard=SECOND),
        _score(judge="worst"),
        _score(candidates=()),
        _score(baseline=_craft(seed=1)),
        _score(clean=_purify(shard=SECOND)),
        _score(candidates=(Candidate("exact", _craft(), _purify(images=_craft())),)),
        _score(candidates=(Candidate("target-only", None, _purify()),)),
    ],
    ids=["target", "purifier", "ball", "shard", "judge", "no route", "baseline", "clean", "route", "images"],
)
def test_an_outcome_depends_on_all_that_it_is_judged_from(changed: Score) -> None:
    assert changed.key != _score().key


@pytest.mark.parametrize(
    "change",
    [{"code": "9" * 8}, {"images": "9" * 8}, {"config": {"a": 1}}],
    ids=["code", "images", "parameters"],
)
def test_other_images_are_another_target_and_another_craft(change: dict[str, Any]) -> None:
    dataset = replace(DATASET, **change)
    assert _target(dataset=dataset).key != _target().key
    assert _craft(shard=replace(FIRST, dataset=dataset)).key != _craft().key


def test_a_target_and_a_source_of_the_same_seed_are_trained_apart() -> None:
    assert _target(role="source").key != _target().key


@pytest.mark.parametrize("kind", KINDS)
def test_new_code_of_the_harness_renews_only_the_kind_of_task_that_it_does(kind: str) -> None:
    def own_keys(protocol: Protocol) -> dict[str, str]:
        """Keys with everything but the task's own protocol held fixed."""
        tasks: list[Task] = [
            _target(),
            _training(),
            Probe(PROTOCOL, _craft("pipeline").surface, FIRST),
            _craft(),
            _purify(),
            _score(),
        ]
        return {task.kind: replace(task, protocol=protocol).key for task in tasks}

    before = own_keys(PROTOCOL)
    after = own_keys(Protocol(code=dict(PROTOCOL.code) | {kind: "1" * 8}))
    assert set(before) == set(KINDS)
    assert {name for name in before if before[name] != after[name]} == {kind}


def test_tasks_of_two_kinds_never_share_a_key() -> None:
    keys = [task.key for task, _ in GOLDEN.values()]
    assert len(set(keys)) == len(keys)


def test_every_task_names_all_that_it_reads() -> None:
    on_target, on_pipeline = _craft(), _craft("pipeline")
    purified = _purify(images=on_pipeline)
    score = _score(candidates=(Candidate("exact", on_pipeline, purified),), baseline=on_target)
    assert {need.key for need in score.needs()} == {
        _target().key,
        _training().key,
        on_target.key,
        on_pipeline.key,
        purified.key,
        _purify().key,
    }
    assert {need.key for need in purified.needs()} == {_training().key, on_pipeline.key}
    assert {need.key for need in _craft("pipeline", start=on_target).needs()} == {
        _target().key,
        _training().key,
        on_target.key,
    }
