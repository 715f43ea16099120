"""The surfaces that each threat gives its attacks, and which outcomes are compared with which."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import benchmark
from benchmark.api.attack import Surface
from benchmark.api.losses import loss_gradient
from benchmark.api.noise import StreamNoise
from benchmark.execution import convergence
from benchmark.execution.bpda_network import BpdaNetwork
from benchmark.execution.dispatch import recompute_lost
from benchmark.execution.observer import Silent
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.surfaces import BpdaSurface, Meter, SurfaceInputs, build_surface, make_surface
from benchmark.plan.cells import Cell
from benchmark.plan.specs import DatasetSpec, TargetSpec
from benchmark.plan.tasks import Craft, TrainTarget
from benchmark.plan.threats.transfer import Transfer
from benchmark.plugins.registry import default_registry
from benchmark.runs import PlannedRun, execute_run, plan_run
from studies import REPOSITORY

PLUGINS = [REPOSITORY / "tests" / "plugin_files" / name for name in ("toy.py", "masking.py")]
PGD: dict[str, Any] = {"name": "pgd", "eps": 0.02, "steps": 10}


def grid(**keys: Any) -> dict[str, Any]:
    return {
        "name": "attackers",
        "datasets": [{"name": "digits", "n": 40}],
        "targets": ["nearest-mean"],
        "source": "target",
        "attacks": [PGD],
        "threats": ["white-box"],
    } | keys


def plan_cell(store: str, **keys: Any) -> Cell:
    (cell,) = plan_run(grid(**keys), Silent(), store=store, plugins=PLUGINS).plan.cells
    return cell


def crafts(cell: Cell) -> dict[str, Craft]:
    return {c.route: c.craft for c in cell.scores[0].candidates if isinstance(c.craft, Craft)}


def surface_of(craft: Craft, planned: PlannedRun) -> Surface:
    """The surface of a craft; trainings that it needs are run."""
    make = partial(make_surface, craft.surface, craft.shard.dataset, planned.context, 0)
    return recompute_lost(make, planned.context)


def test_a_bpda_network_finds_a_direction_if_neither_gradient_does(session_store: str) -> None:
    """A quantiser to four levels has no slope, and the gradient of the identity points the wrong way."""
    keys = {"defenses": [{"name": "negative"}, {"name": "negative", "levels": 4}]}
    planned_run = plan_run(grid(**keys), Silent(), store=session_store, plugins=PLUGINS)
    smooth, coarse = (crafts(cell) for cell in planned_run.plan.cells)
    shard = coarse["exact"].shard
    images, labels = planned_run.context.clean(shard)

    def gradient(craft: Craft) -> torch.Tensor:
        surface = surface_of(craft, planned_run)
        return loss_gradient(surface, images, labels)[0].flatten(1)

    def along(route: str) -> float:
        return float(torch.cosine_similarity(gradient(coarse[route]), gradient(smooth["exact"])).mean())

    assert not gradient(coarse["exact"]).any()
    assert along("bpda-identity") < -0.9
    assert along("bpda-mimic") > 0.9


def test_a_lost_bpda_network_is_trained_again_even_without_gradients(tmp_path: Path) -> None:
    planned_run = plan_run(grid(defenses=["negative"]), Silent(), store=str(tmp_path), plugins=PLUGINS)
    (cell,) = planned_run.plan.cells
    training = crafts(cell)["bpda-mimic"].surface.bpda_network
    assert training is not None
    with torch.no_grad():
        surface = surface_of(crafts(cell)["bpda-mimic"], planned_run)
    assert isinstance(surface, BpdaSurface)
    assert isinstance(surface.purifier.noise, StreamNoise)  # not the noise of the training
    assert planned_run.context.meta(training)["unexplained_error"] < 0.2


def test_a_bpda_network_is_trained_on_as_many_images_as_the_purified_set_has(session_store: str) -> None:
    threats = [{"name": "white-box", "bank": 30}]
    by = crafts(plan_cell(session_store, defenses=["detached"], threats=threats))
    purified_set, training = by["bank"].surface.purified_set, by["bpda-mimic"].surface.bpda_network
    assert purified_set is not None
    assert training is not None
    assert purified_set.count == training.count == 30


def test_no_bpda_network_is_trained_without_a_gradient_attack(session_store: str) -> None:
    query_based, trained = {"name": "square", "eps": 0.1, "steps": 5}, {"name": "advgan", "eps": 0.1}
    for attack in (query_based, trained):
        assert "bpda-mimic" not in crafts(plan_cell(session_store, defenses=["detached"], attacks=[attack]))


@pytest.mark.parametrize("sides", [(28, 28), (27, 29), (5, 1)])
def test_a_bpda_network_keeps_the_size_of_the_image(sides: tuple[int, int]) -> None:
    images, network = torch.rand(2, 3, *sides), BpdaNetwork(3)
    assert torch.equal(network(images), images)  # untrained
    torch.nn.init.normal_(network.change[-2].weight)
    assert network(images).shape == images.shape


def test_strong_searches_convergence_on_the_pipeline_but_not_on_surrogates(session_store: str) -> None:
    strong = {"name": "white-box", "preset": "strong"}
    by = crafts(plan_cell(session_store, defenses=["helpful-mask"], threats=[strong]))
    searched = {route for route, craft in by.items() if craft.convergence is not None}
    assert searched == {"exact", "bpda-identity", "bpda-mimic"}
    assert {"bank", "unmasked"} <= set(by)


def test_images_misclassified_along_one_gradient_are_not_attacked_along_another(tmp_path: Path) -> None:
    """The exact gradient is zero, and BPDA with the identity makes all other images misclassified."""
    threats = [{"name": "white-box", "preset": "strong"}]
    keys: dict[str, Any] = {"defenses": ["detached"], "attacks": [PGD | {"eps": 0.5}], "threats": threats}
    planned_run = plan_run(grid(**keys), Silent(), store=str(tmp_path / "store"), plugins=PLUGINS)
    execute_run(planned_run, Silent(), tmp_path / "out")
    by = crafts(planned_run.plan.cells[0])
    search = by["exact"].convergence
    assert search is not None
    assert search is by["bpda-identity"].convergence
    found = planned_run.context.meta(search)
    (exact,), (identity,), network = found["errors"]
    assert exact < 1 == identity
    assert network == []
    assert found["converged"]
    losses, surfaces, passes = 2, 2, PGD["steps"] + 2
    assert found["forwards"] <= losses * surfaces * 40 * passes, "attacked misclassified images again"


_GROWING = {1: 10, 2: 20, 4: 40, 8: 60}
_FLAT = dict.fromkeys(_GROWING, 40)
_NOTHING = dict.fromkeys(_GROWING, 0)
_ALL_BUT_ONE = dict.fromkeys(_GROWING, 63)


@pytest.mark.parametrize(
    ("exact", "identity", "levels", "converged", "agree"),
    [
        pytest.param(
            [_GROWING] * 2, [_FLAT] * 2, [8, 1], False, True, id="growth on images that BPDA breaks"
        ),
        pytest.param(
            [_NOTHING, _FLAT], [_FLAT] * 2, [1, 1], True, False, id="a loss without a gradient on one surface"
        ),
        pytest.param([_NOTHING] * 2, [_ALL_BUT_ONE] * 2, [1, 1], True, True, id="hardly an image robust"),
        pytest.param(
            [_ALL_BUT_ONE, _FLAT], [_GROWING] * 2, [1, 1], True, True, id="no robust image for BPDA"
        ),
        pytest.param([_FLAT] * 2, [{**_FLAT, 4: 50, 8: 50}] * 2, [1, 1], True, True, id="no growth at first"),
        pytest.param(
            [{1: 10, 2: 30, 4: 30, 8: 30}] * 2, [_FLAT] * 2, [2, 1], True, True, id="growth once, then none"
        ),
    ],
)
def test_each_surface_has_to_converge_while_images_are_robust(
    monkeypatch: pytest.MonkeyPatch,
    exact: list[dict[int, int]],
    identity: list[dict[int, int]],
    levels: list[int],
    converged: bool,
    agree: bool,
) -> None:
    """Each loss misclassifies the given number of 64 images on a surface at a level: the first ones."""
    found: dict[str, Any] = {}

    class Runner:
        labels, meter = torch.zeros(64), Meter()

        def __init__(self, *args: object) -> None: ...

        def run(
            self, surface: list[dict[int, int]], loss: int, level: int, rows: torch.Tensor
        ) -> tuple[None, torch.Tensor]:
            return None, (rows < surface[loss][level]).float() - 0.5

    monkeypatch.setattr(convergence, "_AttackRunner", Runner)
    attack = SimpleNamespace(losses=lambda: range(2))
    context = SimpleNamespace(
        device=torch.device("cpu"),
        new_attack=lambda *args: attack,
        put_tensors=lambda task, tensors, meta: found.update(meta),
    )
    task = SimpleNamespace(
        surfaces=(exact, identity),
        attack=None,
        shard=SimpleNamespace(dataset=None),
        seed_for=lambda purpose: 0,
    )
    convergence.search_convergence(task, context)  # type: ignore[arg-type]
    assert (found["levels"], found["converged"], found["losses_agree"]) == (levels, converged, agree)


def test_query_based_attacks_run_on_the_real_setting_and_not_on_the_cheaper_one(session_store: str) -> None:
    square = {"name": "square", "eps": 0.1, "steps": 5}
    keys = {"defenses": ["dear"], "attacks": [square]}
    queried = crafts(plan_cell(session_store, threats=["query"], **keys))["asked"].surface.purifier
    white_box = crafts(plan_cell(session_store, threats=["white-box"], **keys))["exact"].surface.purifier
    assert queried is not None
    assert white_box is not None
    assert queried.parts[0].defense.config != white_box.parts[0].defense.config
    cheaper = queried.parts[0].defense.in_attack
    assert cheaper is not None
    assert white_box.parts[0].defense.config == cheaper.config


def test_transfer_refuses_a_target_without_a_substitute() -> None:
    pretrained = TargetSpec("mine", {}, {}, trainable=False)
    other = TargetSpec("other", {}, {})
    dataset = DatasetSpec("d", {}, {})
    target = TrainTarget(dataset, pretrained, "target", None)
    assert "no classifier" in str(Transfer.refuses_target(target, ()))
    assert "no classifier" in str(Transfer.refuses_target(target, (pretrained,)))
    assert Transfer.refuses_target(target, (other,)) is None


def records(store: str, out: Path, sanity: str = "fast", **keys: Any) -> pd.DataFrame:
    return benchmark.run(grid(**keys), out=out, store=store, plugins=PLUGINS, sanity=sanity)


@pytest.mark.parametrize("targeted", ["next", None])
def test_a_targeted_attack_is_not_compared_with_an_untargeted_one(
    targeted: str | None, session_store: str, tmp_path: Path
) -> None:
    stuck = {"name": "pgd", "eps": 0.3, "steps": 10, "alpha": 1e-6, "random_start": False}
    attacks = [stuck | {"targeted": targeted} if targeted else stuck, {"name": "fgsm", "eps": 0.3}]
    found = records(session_store, tmp_path, defenses=["identity"], attacks=attacks).set_index("attack")
    assert ("single-beats-multi" in str(found.loc["pgd", "flags"])) == (targeted is None)


def test_a_maximum_over_many_draws_is_no_doubt_about_a_random_defense(
    session_store: str, tmp_path: Path
) -> None:
    noisy = {"name": "declared-noise", "noise": 0.6}
    (row,) = records(session_store, tmp_path, "full", defenses=[noisy]).to_dict("records")
    assert row["error"] < 1
    assert "noise-beats-attack" not in row["flags"].replace("unchecked:noise-beats-attack", "")


def test_judgements_of_many_draws_and_of_one_are_not_mixed(session_store: str, tmp_path: Path) -> None:
    plain = grid(defenses=[{"name": "declared-noise", "noise": 0.6}])
    del plain["name"]
    weak = plain | {"attacks": [{"name": "fgsm", "eps": 0.02}]}
    unlucky = plain | {"threats": [{"name": "black-box", "judge": "worst-32"}]}
    error = []
    for number, blocks in enumerate(([weak], [weak, unlucky])):
        out = tmp_path / str(number)
        benchmark.run({"name": "judged", "blocks": blocks}, out=out, store=session_store, plugins=PLUGINS)
        board = pd.read_csv(out / "leaderboard.csv").set_index("threat")
        error.append(board.loc["white-box", "error"])
    assert board.loc["black-box", "error"] > error[0] + 0.1
    assert error[0] == error[1]


def test_the_draws_of_a_random_part_before_a_surrogate_are_averaged() -> None:
    registry = default_registry(PLUGINS)
    parts = []
    for name, config in (("declared-noise", {"noise": 0.5}), ("helpful-mask", {})):
        plugin = registry.get("defense", name).load()
        parts.append(plugin(plugin.config_type()(**config), (1, 28, 28), 10))
    torch.manual_seed(0)
    target = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    x = torch.rand(8, 1, 28, 28)
    spread = {}
    for draws in (1, 64):
        module = PurifierModule(parts)
        module.reset(StreamNoise(0))
        surface = build_surface(
            "surrogate:unmasked", SurfaceInputs(target, module, None, None, 10, (1, 28, 28)), draws
        )
        logits = torch.stack([surface(x).detach() for _ in range(8)])
        spread[draws] = float(logits.std(dim=0).mean())
    assert 0 < spread[64] < spread[1] / 4
