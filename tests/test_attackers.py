"""What each attacker is given, and which of its successes are set beside which."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import benchmark
from attacks.gradients import loss_gradient
from benchmark.cells import Cell
from benchmark.display import Silent
from benchmark.noise import StreamNoise
from benchmark.purifier import PurifierModule
from benchmark.refs import DatasetRef, TargetRef
from benchmark.registry import default_registry
from benchmark.runs import prepare, run_prepared
from benchmark.tasks import Craft, TrainTarget
from benchmark.threats.mimic import MimicNet
from benchmark.threats.surfaces import BpdaSurface, Ingredients, Meter, build_surface
from benchmark.threats.transfer import Transfer
from benchmark.work import effort
from benchmark.work.surface import make_surface
from tests.conftest import REPOSITORY

PLUGINS = [REPOSITORY / "tests" / name for name in ("constructed.py", "deceivers.py")]
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


def planned(store: str, **keys: Any) -> Cell:
    (cell,) = prepare(grid(**keys), Silent(), store=store, plugins=PLUGINS).plan.cells
    return cell


def crafts(cell: Cell) -> dict[str, Craft]:
    return {c.route: c.craft for c in cell.scores[0].candidates if isinstance(c.craft, Craft)}


def test_a_mimic_leads_where_neither_gradient_does(session_store: str) -> None:
    """Behind four levels there is no slope, and the identity leads away from what is behind them."""
    keys = {"defenses": [{"name": "negative"}, {"name": "negative", "levels": 4}]}
    prepared = prepare(grid(**keys), Silent(), store=session_store, plugins=PLUGINS)
    smooth, coarse = (crafts(cell) for cell in prepared.plan.cells)
    shard = coarse["exact"].shard
    images, labels = prepared.workshop.clean(shard)

    def gradient(craft: Craft) -> torch.Tensor:
        surface = make_surface(craft.surface, shard.dataset, prepared.workshop, 0)
        return loss_gradient(surface, images, labels)[0].flatten(1)

    def along(route: str) -> float:
        return float(torch.cosine_similarity(gradient(coarse[route]), gradient(smooth["exact"])).mean())

    assert not gradient(coarse["exact"]).any()
    assert along("bpda-identity") < -0.9
    assert along("bpda-mimic") > 0.9


def test_what_is_lost_is_taught_again_where_nothing_is_differentiated(tmp_path: Path) -> None:
    prepared = prepare(grid(defenses=["negative"]), Silent(), store=str(tmp_path), plugins=PLUGINS)
    (cell,) = prepared.plan.cells
    mimic = crafts(cell)["bpda-mimic"].surface.mimic
    assert mimic is not None
    with torch.no_grad():
        surface = make_surface(crafts(cell)["bpda-mimic"].surface, mimic.dataset, prepared.workshop, 0)
    assert isinstance(surface, BpdaSurface)
    assert isinstance(surface.purifier.noise, StreamNoise)  # not that of the lesson
    assert prepared.workshop.meta(mimic)["unexplained_error"] < 0.2


def test_a_mimic_is_taught_with_as_many_images_as_the_bank_has(session_store: str) -> None:
    threats = [{"name": "white-box", "bank": 30}]
    by = crafts(planned(session_store, defenses=["detached"], threats=threats))
    bank, mimic = by["bank"].surface.bank, by["bpda-mimic"].surface.mimic
    assert bank is not None
    assert mimic is not None
    assert bank.count == mimic.count == 30


def test_no_mimic_is_taught_where_nobody_follows_it(session_store: str) -> None:
    asks, trained = {"name": "square", "eps": 0.1, "steps": 5}, {"name": "advgan", "eps": 0.1}
    for attack in (asks, trained):
        assert "bpda-mimic" not in crafts(planned(session_store, defenses=["detached"], attacks=[attack]))


@pytest.mark.parametrize("sides", [(28, 28), (27, 29), (5, 1)])
def test_what_a_mimic_gives_back_is_an_image_of_the_same_size(sides: tuple[int, int]) -> None:
    images, net = torch.rand(2, 3, *sides), MimicNet(3)
    assert torch.equal(net(images), images)  # untaught
    torch.nn.init.normal_(net.change[-2].weight)
    assert net(images).shape == images.shape


def test_strong_grows_on_the_pipeline_and_not_on_what_stands_in_for_it(session_store: str) -> None:
    strong = {"name": "white-box", "preset": "strong"}
    by = crafts(planned(session_store, defenses=["helpful-mask"], threats=[strong]))
    grown = {route for route, craft in by.items() if craft.effort is not None}
    assert grown == {"exact", "bpda-identity", "bpda-mimic"}
    assert {"bank", "unmasked"} <= set(by)


def test_what_one_gradient_breaks_is_not_sought_along_another(tmp_path: Path) -> None:
    """Here the exact gradient is zero, and what it leaves all falls to the identity in its place."""
    threats = [{"name": "white-box", "preset": "strong"}]
    keys: dict[str, Any] = {"defenses": ["detached"], "attacks": [PGD | {"eps": 0.5}], "threats": threats}
    prepared = prepare(grid(**keys), Silent(), store=str(tmp_path / "store"), plugins=PLUGINS)
    run_prepared(prepared, Silent(), tmp_path / "out")
    by = crafts(prepared.plan.cells[0])
    search = by["exact"].effort
    assert search is not None
    assert search is by["bpda-identity"].effort
    found = prepared.workshop.meta(search)
    (exact,), (identity,), mimic = found["errors"]
    assert exact < 1 == identity
    assert mimic == []
    assert found["converged"]
    losses, surfaces, passes = 2, 2, PGD["steps"] + 2
    assert found["forwards"] <= losses * surfaces * 40 * passes, "went on with what had fallen"


_GROWING = {1: 10, 2: 20, 4: 40, 8: 60}
_FLAT = dict.fromkeys(_GROWING, 40)
_NOTHING = dict.fromkeys(_GROWING, 0)
_ALL_BUT_ONE = dict.fromkeys(_GROWING, 63)


@pytest.mark.parametrize(
    ("exact", "identity", "levels", "converged", "agree"),
    [
        pytest.param([_GROWING] * 2, [_FLAT] * 2, [8, 1], False, True, id="growth within what BPDA breaks"),
        pytest.param([_NOTHING, _FLAT], [_FLAT] * 2, [1, 1], True, False, id="a loss that is blind on one"),
        pytest.param([_NOTHING] * 2, [_ALL_BUT_ONE] * 2, [1, 1], True, True, id="next to nothing left"),
        pytest.param([_ALL_BUT_ONE, _FLAT], [_GROWING] * 2, [1, 1], True, True, id="nothing left for BPDA"),
        pytest.param([_FLAT] * 2, [{**_FLAT, 4: 50, 8: 50}] * 2, [1, 1], True, True, id="no growth at first"),
        pytest.param([{1: 10, 2: 30, 4: 30, 8: 30}] * 2, [_FLAT] * 2, [2, 1], True, True, id="then none"),
    ],
)
def test_each_surface_has_to_settle_while_something_is_left(
    monkeypatch: pytest.MonkeyPatch,
    exact: list[dict[int, int]],
    identity: list[dict[int, int]],
    levels: list[int],
    converged: bool,
    agree: bool,
) -> None:
    """How many of 64 images each loss breaks on a surface at a level is given; the first ones are."""
    found: dict[str, Any] = {}

    class Bench:
        labels, meter = torch.zeros(64), Meter()

        def __init__(self, *given: object) -> None: ...

        def run(
            self, on: list[dict[int, int]], loss: int, level: int, places: torch.Tensor
        ) -> tuple[None, torch.Tensor]:
            return None, (places < on[loss][level]).float() - 0.5

    monkeypatch.setattr(effort, "_Bench", Bench)
    attack = SimpleNamespace(losses=lambda: range(2))
    workshop = SimpleNamespace(
        device=torch.device("cpu"),
        new_attack=lambda *given: attack,
        put_tensors=lambda task, tensors, meta: found.update(meta),
    )
    task = SimpleNamespace(
        surfaces=(exact, identity),
        attack=None,
        shard=SimpleNamespace(dataset=None),
        seed_for=lambda purpose: 0,
    )
    effort.find_effort(task, workshop)  # type: ignore[arg-type]
    assert (found["levels"], found["converged"], found["losses_agree"]) == (levels, converged, agree)


def test_who_asks_is_answered_by_the_real_setting_and_not_by_the_cheap_one(session_store: str) -> None:
    square = {"name": "square", "eps": 0.1, "steps": 5}
    keys = {"defenses": ["dear"], "attacks": [square]}
    asked = crafts(planned(session_store, threats=["query"], **keys))["asked"].surface.purifier
    aware = crafts(planned(session_store, threats=["white-box"], **keys))["exact"].surface.purifier
    assert asked is not None
    assert aware is not None
    assert asked.parts[0].defense.config != aware.parts[0].defense.config
    cheaper = asked.parts[0].defense.in_attack
    assert cheaper is not None
    assert aware.parts[0].defense.config == cheaper.config


def test_without_any_substitute_nothing_is_said_of_transfer() -> None:
    given = TargetRef("mine", {}, {}, trainable=False)
    other = TargetRef("other", {}, {})
    dataset = DatasetRef("d", {}, {})
    target = TrainTarget(dataset, given, "target", None)
    assert "no classifier" in str(Transfer.refuses_target(target, ()))
    assert "no classifier" in str(Transfer.refuses_target(target, (given,)))
    assert Transfer.refuses_target(target, (other,)) is None


def records(store: str, out: Path, sanity: str = "fast", **keys: Any) -> pd.DataFrame:
    return benchmark.run(grid(**keys), out=out, store=store, plugins=PLUGINS, sanity=sanity)


@pytest.mark.parametrize("targeted", ["next", None])
def test_an_attack_that_aims_is_not_outdone_by_one_that_does_not(
    targeted: str | None, session_store: str, tmp_path: Path
) -> None:
    stuck = {"name": "pgd", "eps": 0.3, "steps": 10, "alpha": 1e-6, "random_start": False}
    attacks = [stuck | {"targeted": targeted} if targeted else stuck, {"name": "fgsm", "eps": 0.3}]
    found = records(session_store, tmp_path, defenses=["identity"], attacks=attacks).set_index("attack")
    assert ("single-beats-multi" in str(found.loc["pgd", "flags"])) == (targeted is None)


def test_luck_of_many_draws_is_no_doubt_about_a_random_defense(session_store: str, tmp_path: Path) -> None:
    noisy = {"name": "declared-noise", "noise": 0.6}
    (row,) = records(session_store, tmp_path, "full", defenses=[noisy]).to_dict("records")
    assert row["error"] < 1
    assert "noise-beats-attack" not in row["flags"].replace("unchecked:noise-beats-attack", "")


def test_verdicts_of_many_draws_and_of_one_are_not_mixed(session_store: str, tmp_path: Path) -> None:
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


def test_a_random_part_before_a_stand_in_is_averaged_too() -> None:
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
        module.noise = StreamNoise(0)
        surface = build_surface(
            "surrogate:unmasked", Ingredients(target, module, None, None, 10, (1, 28, 28)), draws
        )
        answers = torch.stack([surface(x).detach() for _ in range(8)])
        spread[draws] = float(answers.std(dim=0).mean())
    assert 0 < spread[64] < spread[1] / 4
