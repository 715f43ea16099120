"""The record of a cell: every rate by its value on a table of ten hand-made images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch

from benchmark.errors import Failure
from benchmark.metrics.statistics import wilson
from benchmark.plan.cells import Cell, ThreatSpec
from benchmark.plan.specs import AttackSpec, TargetSpec
from benchmark.plan.tasks import Candidate, ExternalImages, Purify, Score, Task, TrainTarget
from benchmark.plan.threats import THREATS
from benchmark.results.records import Result, make_record
from tests.results.hand_made import CW, PGD, attack, made_random, only, with_defense

N = 10
LABELS = np.arange(N) % 3
FOLLOWS = replace(PGD, scalable=True, takes_start=True)


def classes(*wrong: int) -> np.ndarray:
    """The predicted classes of images of which some are misclassified."""
    return np.where(np.isin(np.arange(N), wrong), LABELS + 1, LABELS)


def errors(*wrong: int) -> np.ndarray:
    return np.isin(np.arange(N), wrong).astype(float)


TABLE: dict[str, Any] = {
    "index": np.arange(N),
    "label": LABELS,
    "route": ["exact"] * N,
    "margin": np.where(np.arange(N) < 5, 1.0, -1.0),
    "clean_margin": np.full(N, -2.0),
    "loop_wrong": np.arange(N) < 4,
    "target_clean": classes(0),
    "clean": classes(0, 1),
    "clean_wrong": errors(0, 1),
    "baseline": classes(*range(9)),
    "target_adversarial": classes(0, 1, 2, 3),
    "adversarial": classes(0, 1, 2, 5, 6),
    "wrong": errors(0, 1, 2, 5, 6),
    "adversarial_8bit": classes(0, 1, 5),
    "l0": np.arange(N, dtype=float),
    "l2": 10.0 + np.arange(N),
    "linf": np.full(N, 0.25),
    "psnr_adv": np.full(N, 20.0) + np.arange(N),
    "ssim_adv": np.linspace(0, 0.9, N),
    "psnr": np.full(N, 30.0),
    "ssim": np.full(N, 0.5),
}


@dataclass
class Stored:
    """Stands for the results in the store: tables of scores, and fields of other tasks."""

    tables: dict[str, Any] = field(default_factory=dict)
    metas: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    budget: float = math.inf
    allowance: str = "the budget"

    def table(self, task: Task) -> pyarrow.Table:
        table = self.tables.get(task.key) or TABLE
        shard = task.shard if isinstance(task, Score) else None
        assert shard is not None
        return pyarrow.table({name: list(values)[shard.start : shard.stop] for name, values in table.items()})

    def opened(self, task: Task) -> dict[str, Any]:
        return self.files

    def meta(self, task: Task) -> dict[str, Any]:
        costs = {"craft_ms": 2.0, "purify_ms": 3.0, "forwards": 4.0, "backwards": 5.0, "purifies": 6.0}
        default = {
            "routes": {"clean": 2, "exact": 5},
            "costs": costs | {"blind": 0.0},
            "contradicted": 0,
            "score_factors": {"exact": 1.0},
            "spread": 1.0,
            "probabilities": False,
        }
        return default | self.metas.get(task.key, self.metas.get(task.kind, {}))

    def tensors(self, task: Task) -> dict[str, torch.Tensor]:
        calls = ("batch_of_one", "repeat_call", "with_gradients", "attack_call")
        default: Mapping[str, Any] = {
            "consistency-check": {name: torch.zeros(4) for name in calls},
            "finite-difference-check": {"has_slope": torch.ones(4) > 0, "cosine": torch.ones(4)},
            "gradient-probe": {name: torch.ones(N) for name in ("stable", "plain")}
            | {"responds": torch.ones(N) > 0, "classes": torch.from_numpy(LABELS)},
        }
        return {**default[task.kind], **self.fields.get(task.kind, {})}


def record(cell: Cell, stored: Stored | None = None, **changed: Any) -> dict[str, Any]:
    stored = stored or Stored()
    for score in cell.scores:
        stored.tables.setdefault(score.key, TABLE | changed)
    return make_record(cell, {}, stored).record  # type: ignore[arg-type]


def one(of: AttackSpec = FOLLOWS, threat: str = "black-box", **parameters: Any) -> Cell:
    (found,) = only(of, threat=threat, n=N, images=("a", "b", "c"))
    return replace(found, threat=ThreatSpec(threat, THREATS[threat].config_type(**parameters)))


def test_every_rate_of_a_hand_made_cell() -> None:
    """Of ten images the pipeline misclassifies 0 and 1 when clean, and 0, 1, 2, 5 and 6 under the attack."""
    row = record(one())
    low, high = wilson(5, N)
    expected = {
        "clean_error_target": 0.1,
        "clean_error": 0.2,
        "error_target": 0.4,
        "error_baseline": 0.9,
        "error": 0.5,
        "error_low": low,
        "error_high": high,
        "gain": 0.9 - 0.5,
        "attack_success": 3 / 8,  # 2, 5 and 6 of those that were right
        "recovered": 1 / 4,  # 3 of 0, 1, 2 and 3
        "damaged": 1 / 9,  # 1, of all but 0
        "error_8bit": 0.3,
        "psnr_adv": 24.5,
        "ssim_adv": 0.45,
        "psnr": 30.0,
        "ssim": 0.5,
        "craft_ms": 2.0,
        "purify_ms": 3.0,
        "forwards": 4.0,
        "backwards": 5.0,
        "purifies": 6.0,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["status"] == "ok"
    assert row["error_top5"] is row["label_error"] is None


def test_norms_are_medians_of_the_images_that_were_right_with_failures_at_infinity() -> None:
    row = record(one(), wrong=errors(*range(2, 8)), adversarial=classes(*range(2, 8)))
    assert (row["l0"], row["l2"], row["linf"]) == (5.5, 15.5, 0.25)  # 2 to 7, and two failures
    assert record(one())["l2"] == math.inf  # three of eight
    half = record(one(), wrong=np.where(np.arange(N) < 9, 0.5, 1.0))
    assert half["l2"] == math.inf  # not in more than half of the draws


def test_images_that_an_attack_never_made_on_the_target_are_not_recovered() -> None:
    assert record(one(threat="white-box"))["recovered"] is None
    assert record(one(), target_adversarial=classes())["recovered"] is None  # the target withstood all


def test_rates_without_images_are_empty() -> None:
    everything = classes(*range(N))
    row = record(one(), clean=everything, target_clean=everything)
    assert row["attack_success"] is row["damaged"] is row["l2"] is None
    assert row["clean_error_target"] == 1


def test_means_over_draws_count_as_they_are() -> None:
    wrong = np.array([1.0, 0.5, 0.25, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0, 0.0])
    clean = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25])
    row = record(one(), wrong=wrong, clean_wrong=clean)
    assert row["error"] == 0.25
    assert (row["error_low"], row["error_high"]) == wilson(2, N)
    assert row["clean_error"] == 0.075
    assert row["recovered"] == pytest.approx((0 + 0.5 + 0.75 + 1) / 4)
    assert row["attack_success"] == pytest.approx((0.25 + 0.75) / 8)
    assert row["damaged"] == pytest.approx(0.25 / 9)


def test_labels_of_a_defense_and_the_first_five_classes() -> None:
    row = record(one(), decided=classes(3, 4, 5), in_top5=np.arange(N) < 8)
    assert row["label_error"] == 0.3
    assert row["error_top5"] == pytest.approx(0.2)


def test_without_a_baseline_there_is_no_gain() -> None:
    cell = one()
    bare = replace(cell, scores=tuple(replace(score, baseline=()) for score in cell.scores))
    row = record(bare)
    assert row["error_baseline"] is row["gain"] is None


# --- several shards ----------------------------------------------------------------------------------


def two_shards(cell: Cell) -> Cell:
    """The cell with its images in shards of four and six."""
    (score,) = cell.scores
    shards = [replace(score.shard, stop=4), replace(score.shard, start=4)]
    return replace(cell, scores=tuple(replace(score, shard=shard) for shard in shards))


def test_shards_are_joined_and_costs_are_means_over_images() -> None:
    cell, stored = two_shards(one()), Stored()
    first, second = cell.scores
    costs = stored.meta(first)["costs"]
    stored.metas[first.key] = {"costs": costs | {"forwards": 10.0}, "routes": {"clean": 1, "exact": 2}}
    stored.metas[second.key] = {"costs": costs | {"forwards": 20.0}, "routes": {"clean": 2, "exact": 1}}
    row = record(cell, stored)
    assert row["error"] == 0.5
    assert row["forwards"] == 16
    assert json.loads(row["routes"]) == {"clean": 0.3, "exact": 0.3}


@pytest.mark.parametrize(("budget", "status"), [(25, "ok"), (24.9, "budget")])
def test_each_shard_may_use_the_whole_budget(budget: float, status: str) -> None:
    cell, stored = two_shards(one()), Stored(budget=budget)
    costs = stored.meta(cell.scores[0])["costs"]
    stored.metas[cell.scores[1].key] = {"costs": costs | {"forwards": 20.0}}
    row = record(cell, stored)
    assert row["status"] == status
    assert (row["error"] is None) == (status == "budget")
    assert status == "ok" or "used 25 passes per image, more than the budget" in row["reason"]


# --- external images ---------------------------------------------------------------------------------


def with_external(cell: Cell, *tables: dict[str, Any]) -> tuple[Result, list[Cell]]:
    """The result of a cell with sets of external images, each a change of the table."""
    stored, others = Stored(), []
    for number, changed in enumerate(tables):
        scores = []
        for score in cell.scores:
            images = ExternalImages(score.shard, str(number), "them")
            candidate = Candidate("outside: them", images, Purify(score.purifier, score.shard, images))
            scores.append(replace(score, candidates=(candidate,)))
            stored.tables[scores[-1].key] = TABLE | changed
            stored.metas[scores[-1].key] = {"routes": {"outside: them": number + 1}}
        others.append(replace(cell, scores=tuple(scores), probes=(), checks=None, attack_seed=None))
    return make_record(cell, {}, stored, others), others  # type: ignore[arg-type]


def test_of_each_image_the_larger_margin_counts() -> None:
    """Theirs fool image 7. Their weaker image 2 does not undo ours, nor their nearer image 3."""
    margins, distances = TABLE["margin"].copy(), TABLE["linf"].copy()
    margins[[2, 3, 7]], distances[3] = (-0.5, 0.5, 0.5), 0.1
    theirs = {"margin": margins, "wrong": errors(7), "route": ["outside"] * N, "linf": distances}
    result, _ = with_external(one(), theirs)
    assert result.record["error"] == 0.6
    assert result.outcomes["route"].to_pylist() == ["outside" if i == 7 else "exact" for i in range(N)]
    assert result.own["route"].to_pylist() == ["exact"] * N
    routes = json.loads(result.record["routes"])
    assert routes == {"clean": 0.2, "exact": 0.5, "outside: them": 0.1}


def test_for_an_attack_that_minimises_the_norm_the_nearer_image_counts() -> None:
    """Ours fool 0 to 4, at a distance of 10 and more. Theirs are nearer at 0, farther at 1, and fool 8."""
    margins, distances = TABLE["margin"].copy(), TABLE["l2"].copy()
    margins[[2, 5, 8]] = -0.5, -0.1, 0.1  # nearer, but does not fool; neither fools, larger; fools
    distances[[0, 1, 2]], distances[8] = (1.0, 99.0, 1.0), 50.0
    margins[0] = 0.2
    theirs = {"margin": margins, "l2": distances, "route": ["outside"] * N}
    result, _ = with_external(one(CW), theirs)
    taken = [i for i, route in enumerate(result.outcomes["route"].to_pylist()) if route == "outside"]
    assert taken == [0, 5, 8]


def test_each_set_of_the_same_origin_has_its_own_route() -> None:
    result, others = with_external(one(), {}, {}, {})
    routes = json.loads(result.record["routes"])
    assert routes == {
        "clean": 0.2,
        "exact": 0.5,
        "outside: them": 0.1,
        "outside: them #2": 0.2,
        "outside: them #3": 0.3,
    }
    assert [cell for cell, _ in result.external] == others


# --- flags that follow from the stored results ---------------------------------------------------------


def flags(cell: Cell, stored: Stored | None = None, **changed: Any) -> set[str]:
    text = record(cell, stored, **changed)["flags"]
    return set(text.split()) - {"unchecked:not-converged"}


MOVED = {"linf": np.full(N, 0.3), "clean_wrong": errors(0)}
"""Images that were moved, by a defense that adds no clean error."""


def test_a_sound_cell_has_no_flags() -> None:
    assert flags(one(), **MOVED) == flags(one(threat="white-box"), **MOVED) == set()


def test_an_image_counts_as_robust_unless_every_draw_is_wrong() -> None:
    broken = Stored(metas={"consistency-check": {"probabilities": True}})
    assert "probabilities-not-logits" in flags(one(), broken, wrong=np.array([1.0] * 9 + [0.75]), **MOVED)
    assert flags(one(), Stored(metas=broken.metas), wrong=np.ones(N), **MOVED) == set()


def test_undeclared_files_are_doubted() -> None:
    assert flags(one(), Stored(files={"defense mine": ["weights.pt"]}), **MOVED) == {"undeclared-file"}


def zero(name: str) -> Stored:
    return Stored(fields={"gradient-probe": {name: torch.zeros(N)}})


@pytest.mark.parametrize(
    ("of", "loss"),
    [
        (FOLLOWS, "stable"),
        (replace(FOLLOWS, backend="art"), "plain"),
        (replace(attack("deepfool", None), backend="art"), "stable"),
    ],
)
def test_the_gradient_is_that_of_the_loss_that_the_attack_follows(of: AttackSpec, loss: str) -> None:
    for threat in ("black-box", "white-box"):
        for name in ("stable", "plain"):
            cell = one(of, threat)
            found = "zero-gradient" in flags(cell, zero(name), baseline=classes(*range(N)), **MOVED)
            assert found == (name == loss), (threat, name)
    assert "zero-gradient" not in flags(one(replace(of, uses="scores")), zero(loss), **MOVED)


def test_gradients_that_were_not_numbers_are_doubted() -> None:
    stored = Stored()
    blind = Stored(metas={"score": {"costs": stored.meta(one().scores[0])["costs"] | {"blind": 0.1}}})
    assert "zero-gradient" in flags(one(), blind, **MOVED)


def test_images_have_to_be_moved_in_the_norm_of_the_cell() -> None:
    assert "not-moved" in flags(one(), linf=np.full(N, 0.14))
    assert "not-moved" not in flags(one(), linf=np.full(N, 0.16))


def test_the_target_of_craft_on_is_tested_for_chance_too() -> None:
    cell = one()
    base = TrainTarget(cell.dataset, TargetSpec("base", {}, {}), "target", 0)
    probes = tuple(replace(p, surface=replace(p.surface, target=base)) for p in cell.probes)
    other = Stored(fields={"gradient-probe": {"classes": torch.from_numpy((LABELS + 1) % 3)}})
    assert "target-at-chance" in flags(replace(cell, craft_on=base, probes=probes), other, **MOVED)
    assert "target-at-chance" not in flags(cell, Stored(fields=other.fields), **MOVED)


def test_contradictions_of_all_shards_add_up() -> None:
    cell, stored = two_shards(one()), Stored()
    stored.metas[cell.scores[1].key] = {"contradicted": 1}
    assert "hidden-randomness" in flags(cell, stored, **MOVED)


# --- the rules of RobustBench --------------------------------------------------------------------------


def test_eligibility_names_the_rules_that_are_broken() -> None:
    cell = one(threat="white-box")
    assert record(one())["eligible"] is None
    assert record(cell)["eligible"] == "yes"
    assert record(made_random(cell))["eligible"] == "random"
    assert record(with_defense(cell, inner_optimisation=True))["eligible"] == "optimisation"
    few = torch.ones(N)
    few[0] = 0
    one_of_ten = Stored(fields={"gradient-probe": {"stable": few}})
    assert record(made_random(cell), one_of_ten)["eligible"] == "zero-gradient random"


@pytest.mark.parametrize(("without", "eligible"), [(1, "yes"), (2, "zero-gradient")])
def test_one_image_in_a_hundred_may_lack_a_gradient(without: int, eligible: str) -> None:
    gradients = torch.ones(100)
    gradients[:without] = 0
    stored = Stored(
        fields={
            "gradient-probe": {
                "stable": gradients,
                "responds": torch.ones(100) > 0,
                "classes": torch.zeros(100),
            }
        }
    )
    cell = one(threat="white-box")
    table = {name: np.resize(values, 100) for name, values in TABLE.items()}
    scores = tuple(replace(s, shard=replace(s.shard, stop=100)) for s in cell.scores)
    assert record(replace(cell, scores=scores, n=100), stored, **table)["eligible"] == eligible


# --- cells without a result ----------------------------------------------------------------------------


def test_cells_that_were_skipped_or_failed_have_no_rates() -> None:
    cell = one()
    skipped = make_record(replace(cell, skipped="because"), {}, Stored()).record  # type: ignore[arg-type]
    assert (skipped["status"], skipped["reason"], skipped["error"]) == ("skipped", "because", None)
    failure = {cell.scores[0].key: Failure("broken")}
    failed = make_record(cell, failure, Stored()).record  # type: ignore[arg-type]
    assert (failed["status"], failed["reason"], failed["error"]) == ("failed", "broken", None)


def test_a_cell_whose_external_images_cannot_be_judged_fails() -> None:
    cell = one()
    _, (other,) = with_external(cell, {})
    failures = {other.scores[0].key: Failure("too bright")}
    failed = make_record(cell, failures, Stored(), [other]).record  # type: ignore[arg-type]
    assert (failed["status"], failed["reason"]) == ("failed", "too bright")
