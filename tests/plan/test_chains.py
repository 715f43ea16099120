"""Chains of defenses: how a grid names them, the properties that follow from the parts, and the outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.api.noise import Noise
from benchmark.execution.observer import Silent
from benchmark.execution.purifier import PurifierModule
from benchmark.plan.cells import Cell
from benchmark.plan.grid import load_grid
from benchmark.plan.specs import ConfigSpec, DefenseSpec
from benchmark.plan.tasks import PurifierSpec, PurifierStage
from benchmark.plugins.registry import Registry, default_registry
from benchmark.runs import CompletedRun, execute_run, plan_run

GRID = {
    "name": "chains",
    "datasets": [{"name": "digits", "n": 20}],
    "targets": ["nearest-mean"],
    "source": "target",
    "attacks": [{"name": "fgsm", "eps": 0.1}],
    "threats": ["black-box"],
}


@pytest.fixture(scope="module")
def registry(constructed: Path) -> Registry:
    return default_registry([constructed])


def _grid(defenses: list[Any]) -> dict[str, Any]:
    return GRID | {"defenses": defenses}


def _cells(plugin: Path, store: Path, defenses: list[Any], **keys: Any) -> list[Cell]:
    return list(plan_run(_grid(defenses) | keys, Silent(), store=str(store), plugins=[plugin]).plan.cells)


def _run(plugin: Path, store: Path, defenses: list[Any]) -> tuple[CompletedRun, list[Cell], Any]:
    prepared = plan_run(_grid(defenses), Silent(), store=str(store), plugins=[plugin], device="cpu")
    finished = execute_run(prepared, Silent(), store.with_name("out"))
    return finished, list(prepared.plan.cells), prepared.context


def test_a_chain_has_parts_in_order_with_parameters_a_limit_and_a_source(registry: Registry) -> None:
    chain = {"chain": [{"name": "median", "size": 5}, "ape-gan"], "n": 7, "source": "default"}
    (entry,) = load_grid(_grid([chain]), registry).blocks[0].defenses
    assert [part.name for part in entry.parts] == ["median", "ape-gan"]
    assert entry.parts[0].config.model_dump() == {"size": 5}
    assert (entry.n, entry.source) == (7, "default")


def test_swept_parts_are_multiplied(registry: Registry) -> None:
    levels = [{"name": "dial", "level": [0.1, 0.2]}, "median", {"name": "dial", "level": [0.3, 0.4, 0.5]}]
    entries = load_grid(_grid([{"chain": levels}, "median"]), registry).blocks[0].defenses
    found = [tuple(part.config.model_dump().get("level") for part in entry.parts) for entry in entries]
    assert found == [(a, None, b) for a in (0.1, 0.2) for b in (0.3, 0.4, 0.5)] + [(None,)]


def test_a_row_names_the_parts_and_their_parameters(constructed: Path, tmp_path: Path) -> None:
    chain = [{"name": "median", "size": 5}, {"name": "shift", "strength": 0.25}]
    (cell,) = _cells(constructed, tmp_path, [{"chain": chain}])
    assert cell.identity["defense"] == "median+shift"
    assert json.loads(cell.identity["defense_config"]) == {
        "chain": [
            {"name": "median", "size": 5},
            {"name": "shift", "strength": 0.25, "scale": 1.0, "source": "target"},
        ]
    }


def test_a_chain_of_one_is_that_defense(constructed: Path, tmp_path: Path) -> None:
    alone, chained = ([d] for d in ("shift", {"chain": ["shift"]}))
    (first,), (second,) = (_cells(constructed, tmp_path, defenses) for defenses in (alone, chained))
    assert first.key == second.key
    assert len(_cells(constructed, tmp_path, [*alone, *chained])) == 1


def test_the_order_of_a_chain_matters(constructed: Path, tmp_path: Path) -> None:
    one, other = _cells(
        constructed, tmp_path, [{"chain": ["median", "round8"]}, {"chain": ["round8", "median"]}]
    )
    assert one.key != other.key
    assert one.purifier.key != other.purifier.key


def test_the_properties_of_a_chain_follow_from_its_parts() -> None:
    def purifier(*properties: dict[str, Any]) -> PurifierSpec:
        return PurifierSpec(
            tuple(PurifierStage(DefenseSpec("part", {}, {}, **facts)) for facts in properties)
        )

    plain: dict[str, Any] = {}
    for fact in ("trainable", "stochastic"):
        assert getattr(purifier(plain, {fact: True}, plain), fact)
        assert not getattr(purifier(plain, plain), fact)
    for fact in ("control", "is_identity"):
        assert getattr(purifier({fact: True}, {fact: True}), fact)
        assert not getattr(purifier({fact: True}, plain), fact)
    decides = {"decides_label": True}
    assert purifier(plain, decides).decides_label
    assert not purifier(decides, plain).decides_label
    trained: dict[str, Any] = {"trainable": True}
    parts = ({"gate": 0.02} | trained, {"gate": 0.3}, {"gate": 0.1} | trained)
    assert purifier(*parts).gate == 0.1  # untrained parts add no gate
    cheaper = {"in_attack": ConfigSpec({"steps": 1}, {"steps": 1})}
    assert purifier(plain, cheaper).is_cheaper_in_attack
    assert not purifier(plain, plain).is_cheaper_in_attack
    assert [dict(part.defense.config) for part in purifier(plain, cheaper).in_attack.parts] == [
        {},
        {"steps": 1},
    ]


def test_a_chain_applies_its_parts_in_order_to_real_images(constructed: Path, tmp_path: Path) -> None:
    chain = {"chain": [{"name": "shift", "strength": 0.3}, {"name": "dial", "level": 0.5}, "median"]}
    finished, (cell,), context = _run(constructed, tmp_path / "store", [chain])
    assert finished.records[0]["status"] == "ok", finished.records[0]["reason"]
    (score,) = cell.scores
    clean, _ = context.clean(score.shard)
    median = default_registry().get("defense", "median").load()
    module = PurifierModule([median(median.config_type()(), (1, 28, 28), 10)])
    expected = module((clean + 0.3).clamp(0, 1) * 0.5)
    assert torch.allclose(context.tensors(score.clean)["images"], expected, atol=1e-6)
    assert not torch.allclose(module(((clean * 0.5) + 0.3).clamp(0, 1)), expected, atol=1e-2)


def test_the_module_of_a_chain_applies_the_modules_of_its_parts_in_order() -> None:
    plugins = [default_registry().get("defense", name).load() for name in ("median", "jpeg")]
    first, second = (plugin(plugin.config_type()(), (1, 28, 28), 10) for plugin in plugins)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    outputs = []
    for parts in ([first, second], [second, first]):
        chain = PurifierModule(parts)
        images = x
        for part in parts:
            module = PurifierModule([part])
            module.noise = Noise(0, range(3))
            images = module(images)
        assert torch.equal(chain(x), images)
        outputs.append(images)
    assert not torch.equal(*outputs)


def test_only_the_last_part_of_a_chain_decides(constructed: Path) -> None:
    plugin = default_registry([constructed]).get("defense", "decides").load()
    shifty, honest = (plugin(plugin.config_type()(how=how), (1, 28, 28), 10) for how in ("two-faced", "well"))
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images, label = PurifierModule([shifty, honest]).purify_and_decide(x)
    assert torch.equal(images, x * 0.9 * 0.9)  # the images that attacks get, not those of the decision
    assert label is not None
    assert torch.equal(images, PurifierModule([shifty, honest])(x))


def test_a_part_is_trained_once_for_all_chains_and_its_own_row(constructed: Path, tmp_path: Path) -> None:
    defenses = ["shift", {"chain": ["median", "shift"]}, {"chain": ["shift", "round8"]}]
    finished, cells, _ = _run(constructed, tmp_path / "store", defenses)
    assert finished.execution.done["train-defense"] == 1
    trainings = [part.training.key for c in cells for part in c.purifier.parts if part.training]
    assert len(trainings) == 3
    assert len(set(trainings)) == 1
    assert all(row["status"] == "ok" for row in finished.records)


def test_a_fault_in_a_part_fails_the_chain_and_names_the_part(constructed: Path, tmp_path: Path) -> None:
    defenses = ["median", {"chain": ["median", "raises"]}, {"chain": ["diverges", "median"]}]
    finished, _, _ = _run(constructed, tmp_path / "store", defenses)
    status = {row["defense"]: (row["status"], row["reason"]) for row in finished.records}
    assert status["median"] == ("ok", "")
    assert status["median+raises"][0] == status["diverges+median"][0] == "failed"
    assert "defense raises raised RuntimeError: out of purifier fluid" in status["median+raises"][1]
    assert "training diverges diverged" in status["diverges+median"][1]


def test_a_chain_has_one_row_for_each_seed_that_some_part_depends_on(
    constructed: Path, tmp_path: Path
) -> None:
    chains = [{"chain": ["median", "round8"]}, {"chain": ["median", "shift"]}, {"chain": ["noisy", "shift"]}]
    cells = _cells(constructed, tmp_path, chains, seeds={"defense": [3, 4]})
    assert [(cell.identity["defense"], cell.identity["defense_seed"]) for cell in cells] == [
        ("median+round8", None),
        ("median+shift", 3),
        ("median+shift", 4),
        ("noisy+shift", 3),
        ("noisy+shift", 4),
    ]
    noisy, shift = cells[-1].purifier.parts
    assert (noisy.seed, noisy.training) == (4, None)
    assert shift.seed is None
    assert shift.training is not None
    assert shift.training.seed == 4
    assert [part.seed for part in cells[1].purifier.parts] == [None, None]


def test_two_random_parts_do_not_draw_the_same_noise(constructed: Path) -> None:
    noisy = default_registry([constructed]).get("defense", "noisy").load()
    parts = [noisy(noisy.config_type()(), (1, 28, 28), 10) for _ in range(2)]
    grey = torch.full((4, 1, 28, 28), 0.5)
    module = PurifierModule(parts)
    module.noise = Noise(0, range(4))
    single = PurifierModule(parts[:1])
    single.noise = Noise(0, range(4))
    once, twice = single(grey) - grey, module(grey) - grey
    # two independent draws add up to √2 times the deviation, two equal draws to 2 times; values are clipped
    assert 1.2 < float(twice.std() / once.std()) < 1.6
