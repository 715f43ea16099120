"""Keys follow from content. They are pinned, because a changed key invalidates stored results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.plan.specs import AttackSpec, ConfigSpec, DatasetSpec, DeclaredFile, DefenseSpec, TargetSpec
from benchmark.plan.tasks import (
    Candidate,
    Craft,
    GradientProbe,
    PurifierSpec,
    PurifierStage,
    Purify,
    Score,
    Shard,
    SurfaceSpec,
    Task,
    TrainDefense,
    TrainTarget,
)
from benchmark.storage.keys import canonical, digest, seed_from

DATASET = DatasetSpec("digits", {}, {}, images="1" * 8, test_size=500)
CLASSIFIER = TargetSpec("mnist-b", {"epochs": 4, "lr": 0.001}, {})
SOURCE = TargetSpec("mnist-c", {"epochs": 4, "lr": 0.001}, {"epochs": 4})
DEFENSE = DefenseSpec(
    "toy",
    {"width": 8, "strength": 0.5},
    {"strength": 0.5},
    trainable=True,
    train_fields=frozenset({"width"}),
)
ATTACK = AttackSpec(
    "fgsm",
    {"eps": 0.1, "clip": True},
    {"eps": 0.1},
    norm="linf",
    eps=0.1,
    takes_start=True,
    shares_sweep=True,
    sweep_fields=frozenset({"eps"}),
)
FIRST, SECOND = Shard(DATASET, 0, 100), Shard(DATASET, 100, 200)


def _target(**changes: Any) -> TrainTarget:
    return replace(TrainTarget(DATASET, CLASSIFIER, "target", 0), **changes)


def _training(defense: DefenseSpec = DEFENSE, **changes: Any) -> TrainDefense:
    source = TrainTarget(DATASET, SOURCE, "source", 0)
    return replace(TrainDefense(DATASET, defense, source, 0), **changes)


def _purifier(defense: DefenseSpec = DEFENSE, **changes: Any) -> PurifierSpec:
    return PurifierSpec((replace(PurifierStage(defense, _training(defense), None), **changes),))


def _craft(form: str = "target", defense: DefenseSpec = DEFENSE, **changes: Any) -> Craft:
    surface = SurfaceSpec(form, _target(), None if form == "target" else _purifier(defense))
    return replace(Craft(ATTACK, surface, FIRST, None), **changes)


def _purify(defense: DefenseSpec = DEFENSE, images: Craft | None = None, **changes: Any) -> Purify:
    return replace(Purify(_purifier(defense), FIRST, images), **changes)


def _score(**changes: Any) -> Score:
    craft = _craft()
    score = Score(
        target=_target(),
        purifier=_purifier(),
        attack=ATTACK,
        shard=FIRST,
        judge="one",
        candidates=(Candidate("target-only", craft, _purify(images=craft)),),
        baseline=(craft,),
        clean=_purify(),
        clean_judged=(_purify(),),
        threat=("black-box", 1),
    )
    return replace(score, **changes)


def _with(spec: Any, **config: Any) -> Any:
    return replace(spec, config=dict(spec.config) | config, changed=dict(spec.changed) | config)


def _stronger() -> AttackSpec:
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
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"eps": value})


def test_types_that_json_lacks_are_refused() -> None:
    with pytest.raises(TypeError):
        digest({"eps": {0.1, 0.2}})


def test_seeds_fit_all_generators_and_differ() -> None:
    seeds = [seed_from("craft", i) for i in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


GOLDEN: dict[str, tuple[Any, str]] = {
    "target": (_target(), "7e44717ff6ae0538a2a3e5e2a395e8de530a8fdc08d4818403c194fd8320a9b5"),
    "training": (_training(), "ce7bf4186f107c2abaecd404fd37a3d97c4b1fb060da2d533e680f3a6d008b47"),
    "purifier": (_purifier(), "7aaab0b99d2f522576f2ee0bfda2da9fcdfdbab19dedfff832c56bd5c3a40aa3"),
    "surface": (
        _craft("pipeline").surface,
        "44fb1ddb3cbbcfe6a77932cde5ba70840905755eccdf268c855a4940a93e728d",
    ),
    "probe": (
        GradientProbe(_craft("pipeline").surface, FIRST),
        "35d461f434051567725c49172e6a0a0c97b58c92e7e189fb757806f110fe5a93",
    ),
    "craft on the target": (_craft(), "7806594a6172398977c3d3dbe2a85ab99f27ff9e1190a6a5bf4e6c65515f087d"),
    "craft on the pipeline": (
        _craft("pipeline", seed=3, start=_craft(seed=3)),
        "e980a81ce93695f6aa30e64807758873b3e9fcca3c72b6316d419a00a7e81ebf",
    ),
    "purify clean": (_purify(), "02d8c67d01525b5dff1d827f8b4f1c356ad569e2a238fbdcb9ee9701d8e9164e"),
    "purify clean, to judge": (
        _purify(draw="judge"),
        "06636c974a0854744a981ad575d900dd440fdcd3eb2ef37d6e9005e09299cde6",
    ),
    "purify images": (
        _purify(images=_craft()),
        "424a7eab14301f058b6c0f0bdd7eb75697646fb2d257e4859ed977b5487c8bb0",
    ),
    "score": (_score(), "bd6e9f1ce92ad9dc69f2987415e0f70f8daa94f660b80e31a40d99c612953b14"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_keys_are_fixed(name: str) -> None:
    """If this fails, stored results are no longer found. Only a change of their meaning justifies that."""
    task, key = GOLDEN[name]
    assert task.key == key


def test_keys_do_not_depend_on_how_the_content_was_built() -> None:
    turned = replace(DEFENSE, config=dict(reversed(DEFENSE.config.items())))
    assert _purify(turned).key == _purify().key
    assert _training(turned).key == _training().key


def test_a_parameter_that_acts_after_training_changes_purification_only() -> None:
    changed = _with(DEFENSE, strength=0.75)
    assert _training(changed).key == _training().key
    assert _purify(changed).key != _purify().key
    assert _craft("pipeline", changed).key != _craft("pipeline").key


def test_a_parameter_of_training_changes_training_and_purification() -> None:
    changed = _with(DEFENSE, width=16)
    assert _training(changed).key != _training().key
    assert _purify(changed).key != _purify().key


def test_other_weights_change_the_key_of_purification() -> None:
    """The defense is the same, but its training has another seed or another source."""
    for training in (_training(seed=1), _training(source=_target())):
        assert training.key != _training().key
        assert _purify(purifier=_purifier(training=training)).key != _purify().key


def test_another_draw_or_another_number_of_them_is_another_result() -> None:
    assert _purify(draw="judge").key != _purify().key
    surface = _craft("pipeline").surface
    assert replace(surface, draws=10).key != surface.key
    assert _craft(surface=replace(surface, draws=10)).key != _craft("pipeline").key


def test_the_order_and_the_seeds_of_the_parts_are_in_the_key() -> None:
    first, second = (
        PurifierStage(DEFENSE, _training()),
        PurifierStage(replace(DEFENSE, name="other"), None, 3),
    )
    chains = [(first,), (second,), (first, second), (second, first), (first, replace(second, seed=4))]
    assert len({PurifierSpec(parts).key for parts in chains}) == len(chains)


def test_a_cheaper_setting_for_attacks_changes_attacks_and_not_the_judged_purifier() -> None:
    setting = ConfigSpec({"width": 8, "strength": 0.1}, {"strength": 0.1})
    cheaper = replace(DEFENSE, in_attack=setting)
    assert _purifier(cheaper).key == _purifier().key
    assert _purifier(cheaper).in_attack.key == _purifier(_with(DEFENSE, strength=0.1)).key
    assert _purifier().in_attack.key == _purifier().key


def test_properties_that_change_no_result_change_no_key() -> None:
    assert _training(replace(DEFENSE, gate=0.1, control=True)).key == _training().key
    assert _purify(replace(DEFENSE, gate=0.1, control=True)).key == _purify().key
    assert _craft(attack=replace(ATTACK, mandatory=True)).key == _craft().key


def test_another_eps_is_another_craft_of_the_same_sweep() -> None:
    stronger = _craft(attack=_stronger())
    assert stronger.key != _craft().key
    assert stronger.sweep == _craft().sweep
    assert stronger.sweep is not None


OTHER_CRAFTS = {
    "parameter": _craft(attack=_with(ATTACK, clip=False)),
    "version": _craft(attack=replace(ATTACK, version=2)),
    "shard": _craft(shard=SECOND),
    "seed": _craft(seed=1),
    "surface": _craft("pipeline"),
}


@pytest.mark.parametrize("other", OTHER_CRAFTS.values(), ids=OTHER_CRAFTS)
def test_only_crafts_that_differ_in_swept_fields_share_a_sweep(other: Craft) -> None:
    assert other.key != _craft().key
    assert other.sweep != _craft().sweep


def test_crafts_that_cannot_share_a_call_are_in_no_sweep() -> None:
    assert _craft(attack=replace(ATTACK, shares_sweep=False)).sweep is None
    assert _craft("pipeline", start=_craft()).sweep is None


def test_images_made_on_the_bare_target_serve_every_defense() -> None:
    other = replace(_with(DEFENSE, width=1), name="another", version=2)
    assert _craft("target", other).key == _craft("target").key
    assert _craft("pipeline", other).key != _craft("pipeline").key
    needed = {need.kind for need in _craft("target").needs()}
    assert needed == {"train-target"}


def test_the_noise_of_an_attack_is_the_same_for_every_shard() -> None:
    first, second = _craft(shard=FIRST), _craft(shard=SECOND)
    assert first.key != second.key
    assert first.seed_for("noise") == second.seed_for("noise")


def test_the_noise_of_an_attack_differs_by_seed_surface_and_start() -> None:
    crafts = [
        _craft(),
        _craft(seed=0),
        _craft(seed=1),
        _craft("pipeline"),
        _craft("pipeline-bpda-identity"),
        _craft("pipeline", start=_craft()),
        _craft(attack=replace(ATTACK, name="another")),
    ]
    assert len({craft.seed_for("noise") for craft in crafts}) == len(crafts)


OTHER_SCORES = {
    "target": {"target": _target(seed=1)},
    "purifier": {"purifier": _purifier(_with(DEFENSE, strength=0.75))},
    "ball": {"attack": _stronger()},
    "shard": {"shard": SECOND},
    "judge": {"judge": "worst"},
    "no route": {"candidates": ()},
    "baseline": {"baseline": (_craft(seed=1),)},
    "clean": {"clean": _purify(shard=SECOND)},
    "clean judged": {"clean_judged": (_purify(draw="judge"),)},
    "route": {"candidates": (Candidate("exact", _craft(), _purify(images=_craft())),)},
    "images": {"candidates": (Candidate("target-only", None, _purify()),)},
}


@pytest.mark.parametrize("change", OTHER_SCORES.values(), ids=OTHER_SCORES)
def test_the_key_of_a_score_depends_on_all_its_inputs(change: dict[str, Any]) -> None:
    assert _score(**change).key != _score().key


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"images": "9" * 8}, {"config": {"a": 1}, "changed": {"a": 1}}],
    ids=["version", "images", "parameters"],
)
def test_other_images_are_another_target_and_another_craft(change: dict[str, Any]) -> None:
    dataset = replace(DATASET, **change)
    assert _target(dataset=dataset).key != _target().key
    assert _craft(shard=replace(FIRST, dataset=dataset)).key != _craft().key


def test_a_target_and_a_source_of_the_same_seed_are_trained_separately() -> None:
    assert _target(role="source").key != _target().key


def test_another_version_of_a_plugin_changes_its_keys_and_those_that_depend_on_it() -> None:
    other = replace(DEFENSE, version=2)
    assert _training(other).key != _training().key
    assert _purify(other).key != _purify().key
    assert _craft("pipeline", other).key != _craft("pipeline").key
    assert _craft("target", other).key == _craft("target").key
    assert _target(target=replace(CLASSIFIER, version=2)).key != _target().key
    assert _score(threat=("black-box", 2)).key != _score().key


@pytest.mark.parametrize(
    "task", [_target(), _training(), _craft(), _purify(), _score()], ids=lambda t: t.kind
)
def test_another_version_of_a_kind_of_task_changes_the_keys_of_that_kind(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seed = replace(task).key, task.seed_for("init")
    monkeypatch.setattr(type(task), "version", 2)
    assert replace(task).key != before
    assert replace(task).seed_for("init") == seed


def test_a_new_parameter_with_a_default_changes_no_key() -> None:
    """`config` has all parameters, `changed` those that differ from their defaults."""
    newer = replace(
        DEFENSE, config=dict(DEFENSE.config) | {"new": 1}, train_fields=frozenset({"width", "new"})
    )
    assert _training(newer).key == _training().key
    assert _purify(newer).key == _purify().key
    assert _craft("pipeline", newer).key == _craft("pipeline").key


def test_a_file_counts_by_its_content_and_not_its_path() -> None:
    def with_file(path: str, sha256: str) -> DefenseSpec:
        params = {"weights": path}
        files = {"weights": DeclaredFile(Path("/", path), sha256)}
        changed = replace(_with(DEFENSE, **params), files=files)
        return replace(changed, train_fields=frozenset({"width", "weights"}))

    first = with_file("a.pt", "1" * 64)
    assert _training(with_file("b.pt", "1" * 64)).key == _training(first).key
    assert _training(with_file("a.pt", "2" * 64)).key != _training(first).key
    assert _purify(with_file("b.pt", "1" * 64)).key == _purify(first).key
    assert _purify(with_file("a.pt", "2" * 64)).key != _purify(first).key


def test_seeds_follow_from_names_and_not_from_versions_or_parameters() -> None:
    other = replace(_with(DEFENSE, width=16), version=2)
    assert _training(other).key != _training().key
    assert _training(other).seed_for("init") == _training().seed_for("init")
    assert _purify(other).noise_seed == _purify().noise_seed
    assert _purify(images=_craft()).noise_seed == _purify().noise_seed
    assert _craft(attack=_stronger()).seed_for("noise") == _craft().seed_for("noise")
    dataset = replace(DATASET, images="9" * 8, version=2)
    assert _target(dataset=dataset).seed_for("init") == _target().seed_for("init")


def test_seeds_of_each_role_plugin_and_number_differ() -> None:
    trainings = [
        _target(),
        _target(seed=1),
        _target(role="source"),
        _target(role="substitute"),
        _target(target=SOURCE),
        _target(dataset=replace(DATASET, name="mnist")),
        _training(),
        _training(seed=1),
        _training(role="copy-1"),
        _training(role="copy-2"),
    ]
    assert len({task.seed_for("init") for task in trainings}) == len(trainings)
    copies = [_purifier(), _purifier().copy(1), _purifier().copy(2)]
    assert len({copy.seed_for("purify", DATASET) for copy in copies}) == len(copies)
    assert len({copy.key for copy in copies}) == len(copies)


SEEDS = {
    "target": (_target(), 1818295055300859861),
    "training": (_training(), 6272900911854719174),
    "craft": (_craft("pipeline", seed=3), 4139155251875797153),
    "purify": (_purify(), 8953160420079272727),
}


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_fixed(name: str) -> None:
    """If this fails, every training and every draw gives other results under the same key."""
    task, seed = SEEDS[name]
    assert task.seed_for("init") == seed


def test_tasks_of_two_kinds_never_share_a_key() -> None:
    keys = [task.key for task, _ in GOLDEN.values()]
    assert len(set(keys)) == len(keys)


def test_every_task_needs_all_tasks_that_it_reads() -> None:
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
