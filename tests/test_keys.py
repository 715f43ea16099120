"""Keys follow from content: pinned, because a key that moves throws away everybody's stored results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmark.keys import canonical, digest, seed_from
from benchmark.refs import AttackRef, DatasetRef, DefenseRef, PluginRef
from benchmark.tasks import (
    Candidate,
    Craft,
    Part,
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
    return Purifier((replace(Part(defense, _training(defense), None), **changes),))


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
        baseline=(craft,),
        clean=_purify(),
        clean_judged=(_purify(),),
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
    "purifier": (_purifier(), "e33f89f30992289541dd320b56b3a3788747b47c58977d81c794b3098f753da7"),
    "surface": (
        _craft("pipeline").surface,
        "02e6b5ef96fe1bc18e5ea9a9953a053f0cbcfe78c4d11f72efb2db7fde8137ba",
    ),
    "probe": (
        Probe(PROTOCOL, _craft("pipeline").surface, FIRST),
        "502aa6a71b4096b12b8a1d2adf1bdbfef9f6b0273eeda933a45e2f463af111a8",
    ),
    "craft on the target": (_craft(), "03134044258bb39f4576ab26227245ed98a48d324c9febd1bc420a9e61a9dc02"),
    "craft on the pipeline": (
        _craft("pipeline", seed=3, start=_craft(seed=3)),
        "11e5893871f2619ea23cbd68f46aad8aff44020c96eec244e407fdb4272b10e7",
    ),
    "purify clean": (_purify(), "c4296c386d93471da1d95d110ff4a9f2993ea0a351e5612ddffcc673c2938ec2"),
    "purify clean, to judge": (
        _purify(draw="judge"),
        "9e64a49a9d3429b91e6cb92394fd92a97d00dffac62868672730002c479555a5",
    ),
    "purify images": (
        _purify(images=_craft()),
        "02368d9b716b66438e0c6860b2513a0150900da7fa37a5a57645f45c36855214",
    ),
    "score": (_score(), "31dbfe19815f2111bc4cede8a9594e1bcaf91eaa7f8e80526c4068533f13ce42"),
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


def test_another_draw_or_another_number_of_them_is_another_result() -> None:
    assert _purify(draw="judge").key != _purify().key
    surface = _craft("pipeline").surface
    assert replace(surface, draws=10).key != surface.key
    assert _craft(surface=replace(surface, draws=10)).key != _craft("pipeline").key


def test_the_order_and_the_seeds_of_the_parts_are_in_the_key() -> None:
    first, second = Part(DEFENSE, _training()), Part(replace(DEFENSE, name="other"), None, 3)
    chains = [(first,), (second,), (first, second), (second, first), (first, replace(second, seed=4))]
    assert len({Purifier(parts).key for parts in chains}) == len(chains)


def test_a_cheaper_setting_for_attacks_changes_what_they_run_and_not_what_judges() -> None:
    cheaper = replace(DEFENSE, in_attack={"width": 8, "strength": 0.1})
    assert _purifier(cheaper).key == _purifier().key
    assert _purifier(cheaper).in_attack.key == _purifier(_with(DEFENSE, strength=0.1)).key
    assert _purifier().in_attack.key == _purifier().key


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
        _score(baseline=(_craft(seed=1),)),
        _score(clean=_purify(shard=SECOND)),
        _score(clean_judged=(_purify(draw="judge"),)),
        _score(candidates=(Candidate("exact", _craft(), _purify(images=_craft())),)),
        _score(candidates=(Candidate("target-only", None, _purify()),)),
    ],
    ids=[
        "target",
        "purifier",
        "ball",
        "shard",
        "judge",
        "no route",
        "baseline",
        "clean",
        "clean judged",
        "route",
        "images",
    ],
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
    score = _score(candidates=(Candidate("exact", on_pipeline, purified),), baseline=(on_target,))
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
