"""Choosing and judging on images whose first pixels are the class scores, so that every outcome is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.errors import PluginError
from benchmark.execution.judges import judge
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.score import purify, score
from benchmark.metrics import TOLERANCE
from benchmark.plan.specs import AttackSpec
from benchmark.plan.tasks import Candidate, Craft, Purify, Shard, Task
from benchmark.plugins.plugin import Config
from tests.results.hand_made import CW, PGD, attack, only

CLASSES = 3
LABELS = torch.tensor([0, 1, 2, 0])
B = len(LABELS)
BALL = attack("pgd", 1.0, mandatory=True)


class FirstPixels(nn.Module):
    """The scores of the classes are the first pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :CLASSES]


class ByDraw(Defense[Config]):
    """In the draws that `moves` names, adds to the score of the class after the true one."""

    name = "by-draw"

    def __init__(self, moves: dict[int, Sequence[float]]) -> None:
        super().__init__(Config(), (1, 12, 12), CLASSES)
        self.moves = moves
        self.seeds: list[int] = []

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        self.seeds.append(noise.seed)
        moves = self.moves.get(noise.seed, [0.0] * B)
        moved = x.clone()
        rows = torch.arange(len(x))
        moved[rows, 0, 0, (LABELS[: len(x)] + 1) % CLASSES] += torch.tensor(moves[: len(x)])
        return moved.clamp(0, 1)


def images(*scores: Sequence[float]) -> Tensor:
    """Images with these scores of the true class, the next one and the last one; the rest is grey."""
    found = torch.full((len(scores), 1, 12, 12), 0.5)
    for row, (own, following, last) in enumerate(scores):
        classes = [(int(LABELS[row]) + shift) % CLASSES for shift in range(CLASSES)]
        found[row, 0, 0, classes] = torch.tensor([own, following, last])
    return found


CLEAN = images(*[(0.6, 0.5, 0.4)] * B)
"""Every image is right, with a margin of 0.1."""


def margins(*values: float) -> Tensor:
    """Images with these margins: of the next class, or right if negative."""
    return images(*[(0.5, 0.5 + value, 0.0) for value in values])


@dataclass
class Store:
    """Stands for the context of a run: hand-made images by task, and what is stored."""

    defense: ByDraw
    images_of: dict[str, Tensor] = field(default_factory=dict)
    relative: dict[str, Tensor] = field(default_factory=dict)
    names: int = CLASSES
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    outcomes: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._target, self._purifier = FirstPixels(), PurifierModule([self.defense])

    def clean(self, shard: Shard) -> tuple[Tensor, Tensor]:
        return CLEAN.clone(), LABELS.clone()

    def target(self, task: Task) -> nn.Module:
        return self._target

    def purifier(self, *_: Any) -> PurifierModule:
        return self._purifier

    def images(self, task: Task | None, shard: Shard) -> Tensor:
        return (CLEAN if task is None else self.images_of[task.key]).clone()

    def logits(self, target: Task, source: Task | None, shard: Shard, x: Tensor) -> Tensor:
        return self._target(x)  # type: ignore[no-any-return]

    def tensors(self, task: Task) -> dict[str, Tensor]:
        if isinstance(task, Purify):
            self._purifier.reset(Noise(task.noise_seed, range(B)))
            return {"images": self._purifier(self.images(task.images, task.shard))}
        return {"relative_margin": self.relative.get(task.key, torch.full((B,), -1.0))}

    def dataset(self, *_: Any) -> Any:
        return SimpleNamespace(class_names=[str(number) for number in range(self.names)])

    def meta(self, task: Task) -> dict[str, Any]:
        counts = {"forwards": 3.0, "backwards": 2.0, "purifies": 1.0, "blind": 0.0}
        return {"seconds": 8.0, "images": B, "score_factor": 2.0} | counts

    def put_table(self, task: Task, table: Any, meta: dict[str, Any]) -> None:
        self.outcomes = table.to_pydict()
        self.stored = meta

    def put_tensors(self, task: Task, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.stored = meta | dict(tensors)


def scored(
    candidates: dict[str, Tensor],
    *,
    of: AttackSpec = BALL,
    judge: str = "one",
    random: dict[str, Sequence[float]] | None = None,
    baseline: Tensor | None = None,
    relative: dict[str, Sequence[float]] | None = None,
    classes: int = CLASSES,
) -> Store:
    """The outcomes of images by route.

    `random` makes the defense random, with the moves of each draw; `clean` is the clean image.
    """
    (cell,) = only(of, n=B)
    (task,) = cell.scores
    (stage,) = task.purifier.parts
    spec = replace(stage.defense, stochastic=random is not None, trainable=False)
    purifier = replace(task.purifier, parts=(replace(stage, defense=spec, training=None, seed=0),))
    crafts = {c.route: c.craft for c in task.candidates if isinstance(c.craft, Craft)}
    crafts = {route: _behind(craft, purifier) for route, craft in crafts.items()}
    names = ["judge", *(f"judge-{number}" for number in range(1, int(judge.partition("-")[2] or 1)))]
    draws = names if random is not None else ["select"]

    def draw(images: Craft | None, name: str = "select") -> Purify:
        return Purify(purifier, task.shard, images, name)

    task = replace(
        task,
        purifier=purifier,
        judge=judge,
        candidates=tuple(
            Candidate(route, crafts.get(route), draw(crafts.get(route))) for route in candidates
        ),
        baseline=() if baseline is None else (crafts["target-only"],),
        clean=draw(None),
        clean_judged=tuple(draw(None, name) for name in draws),
    )
    moves = {draw(None, name).noise_seed: values for name, values in (random or {}).items()}
    store = Store(ByDraw(moves), names=classes)
    for route, made in candidates.items():
        if route in crafts:
            store.images_of[crafts[route].key] = made
    if baseline is not None:
        store.images_of[crafts["target-only"].key] = baseline
    for route, values in (relative or {}).items():
        store.relative[crafts[route].key] = torch.tensor(values)
    score(task, store)  # type: ignore[arg-type]
    return store


def _behind(craft: Craft, purifier: Any) -> Craft:
    """The craft with this purifier in its surface, if it has one."""
    if craft.surface.purifier is None:
        return craft
    return replace(craft, surface=replace(craft.surface, purifier=purifier))


# --- judges ------------------------------------------------------------------------------------------

DRAWS = [torch.tensor(classes) for classes in ([0, 0, 1, 1], [1, 0, 1, 1], [1, 0, 0, 1])]
"""Three draws of four images of class 0: right in one, three, one and none of them."""


@pytest.mark.parametrize(
    ("name", "classes", "wrong"),
    [
        ("one", [0, 0, 1, 1], [0, 0, 1, 1]),
        ("mean-3", [0, 0, 1, 1], [2 / 3, 0, 2 / 3, 1]),
        ("worst-3", [1, 0, 1, 1], [1, 0, 1, 1]),
        ("majority-3", [1, 0, 1, 1], [1, 0, 1, 1]),
    ],
)
def test_each_judge_on_three_draws(name: str, classes: list[int], wrong: list[float]) -> None:
    judged, errors = judge(name, DRAWS, torch.zeros(B, dtype=torch.int64))
    assert judged.tolist() == classes
    assert errors.tolist() == pytest.approx(wrong)


def test_the_majority_is_neither_the_first_draw_nor_the_worst_one() -> None:
    draws = [torch.tensor(classes) for classes in ([1, 0], [0, 2], [0, 2], [0, 1], [2, 2])]
    judged, errors = judge("majority-5", draws, torch.tensor([0, 0]))
    assert (judged.tolist(), errors.tolist()) == ([0, 2], [0, 1])


def test_the_worst_draw_is_the_first_that_is_wrong() -> None:
    judged, _ = judge("worst-3", [torch.tensor([c]) for c in (0, 2, 1)], torch.tensor([0]))
    assert judged.tolist() == [2]


# --- choosing ----------------------------------------------------------------------------------------


def test_each_image_is_judged_at_its_worst_candidate() -> None:
    store = scored(
        {
            "clean": CLEAN,
            "exact": margins(0.2, -0.3, -0.3, 0.05),
            "bpda-identity": margins(0.1, 0.3, -0.3, 0.06),
        }
    )
    found = store.outcomes
    assert found["route"] == ["exact", "bpda-identity", "clean", "bpda-identity"]
    assert found["margin"] == pytest.approx([0.2, 0.3, -0.1, 0.06])
    assert found["wrong"] == [1, 1, 0, 1]
    assert found["adversarial"] == [1, 2, 2, 1]
    assert found["clean"] == found["target_clean"] == found["label"] == LABELS.tolist()
    assert found["clean_wrong"] == [0] * B
    assert found["clean_margin"] == pytest.approx([-0.1] * B)
    assert store.stored["routes"] == {"clean": 0, "exact": 2, "bpda-identity": 3}


def test_of_equal_margins_the_first_candidate_counts() -> None:
    found = scored({"exact": margins(*[0.25] * B), "bpda-identity": margins(*[0.25] * B)}).outcomes
    assert found["route"] == ["exact"] * B


def test_the_norms_and_the_quality_are_those_of_the_chosen_image() -> None:
    near, far = margins(0.1, 0.1, -0.2, -0.2), margins(0.4, -0.4, -0.4, -0.4)
    found = scored({"exact": near, "bpda-identity": far}).outcomes
    chosen = torch.cat([far[:1], near[1:]])
    assert found["linf"] == pytest.approx((chosen - CLEAN).abs().flatten(1).amax(dim=1).tolist())
    assert found["l2"] == pytest.approx((chosen - CLEAN).flatten(1).norm(dim=1).tolist())
    expected = 10 * ((chosen - CLEAN).square().flatten(1).mean(dim=1)).log10()
    assert found["psnr"] == found["psnr_adv"] == pytest.approx((-expected).tolist(), abs=1e-3)


def test_an_attack_that_minimises_the_norm_is_judged_at_its_nearest_success() -> None:
    """The images differ from the clean ones by 0.1 and more; the larger margin is farther away."""
    near, far = margins(0.05, 0.05, -0.2, -0.05), margins(0.4, -0.3, 0.3, -0.01)
    for order in (("exact", "bpda-identity"), ("bpda-identity", "exact")):
        made = dict(zip(("exact", "bpda-identity"), (near, far), strict=True))
        found = scored({route: made[route] for route in order}, of=CW).outcomes
        assert found["route"] == ["exact", "exact", "bpda-identity", "bpda-identity"], order
        assert found["wrong"] == [1, 1, 1, 0]


def test_images_made_with_the_defense_in_the_loop_are_counted_apart() -> None:
    made = {
        "clean": CLEAN,
        "target-only": margins(0.3, 0.3, -0.3, -0.3),
        "exact": margins(0.1, -0.3, 0.2, 0.0),
    }
    assert scored(made).outcomes["loop_wrong"] == [True, False, True, False]
    both = made | {"bpda-identity": margins(-0.3, 0.1, -0.3, -0.3)}
    assert scored(both).outcomes["loop_wrong"] == [True, True, True, False]


def test_the_baseline_is_the_worst_image_of_the_bare_target() -> None:
    found = scored({"exact": CLEAN}, baseline=margins(0.1, -0.5, 0.2, -0.01)).outcomes
    assert found["baseline"] == [1, 1, 0, 0]
    assert scored({"exact": CLEAN}).outcomes["baseline"] == LABELS.tolist()


def test_the_target_sees_the_image_without_the_defense() -> None:
    store = scored(
        {"exact": margins(-0.1, -0.1, 0.1, 0.1)}, random={"select": [0.3, 0, 0, 0], "judge": [0.3] * B}
    )
    assert store.outcomes["target_adversarial"] == [0, 1, 0, 1]
    assert store.outcomes["target_clean"] == LABELS.tolist()
    assert store.outcomes["adversarial"] == [1, 2, 0, 1]


def test_with_a_hundred_classes_the_first_five_are_looked_at() -> None:
    few = {"exact": CLEAN}
    assert "in_top5" not in scored(few, classes=99).outcomes
    with pytest.raises(RuntimeError, match="out of range"):  # there are only three scores here
        scored(few, classes=100)


# --- a random defense --------------------------------------------------------------------------------


def test_a_random_defense_is_judged_on_another_draw_than_the_one_that_chose() -> None:
    """The draw of the choice fools images 0 and 1, the draw of the judge images 1 and 2."""
    draws = {"select": [0.3, 0.3, 0.0, 0.0], "judge": [0.0, 0.3, 0.3, 0.0]}
    found = scored({"exact": margins(*[-0.1] * B)}, random=draws).outcomes
    assert found["margin"] == pytest.approx([0.2, 0.2, -0.1, -0.1])
    assert found["wrong"] == [0, 1, 1, 0]
    assert found["clean_wrong"] == [0, 1, 1, 0]  # clean images on the same draw
    assert found["clean_margin"] == pytest.approx([0.2, 0.2, -0.1, -0.1])


def test_further_draws_judge_clean_and_adversarial_images_alike() -> None:
    draws = {
        "select": [0.9] * B,
        "judge": [0.3, 0, 0, 0],
        "judge-1": [0.3, 0.3, 0, 0],
        "judge-2": [0, 0.3, 0, 0],
    }
    for name, wrong in {
        "mean-3": [2 / 3, 2 / 3, 0, 0],
        "worst-3": [1, 1, 0, 0],
        "majority-3": [1, 1, 0, 0],
        "one": [1, 0, 0, 0],
    }.items():
        found = scored({"exact": margins(*[-0.1] * B)}, random=draws, judge=name).outcomes
        assert found["wrong"] == pytest.approx(wrong), name
        assert found["clean_wrong"] == pytest.approx(wrong), name


def test_a_deterministic_defense_is_judged_on_the_images_that_were_chosen() -> None:
    store = scored({"exact": margins(0.1, -0.1, 0.1, -0.1)})
    assert store.outcomes["wrong"] == [1, 0, 1, 0]


def test_rounded_images_are_purified_in_a_draw_of_their_own() -> None:
    """A margin of a thousandth is lost by rounding to 8 bits."""
    made = images((0.5, 0.5005, 0.0), (0.5, 0.6, 0.0), (0.5, 0.4, 0.0), (0.5, 0.5005, 0.0))
    found = scored({"exact": made}).outcomes
    assert found["wrong"] == [1, 1, 0, 1]
    rounded = (made[:, 0, 0] * 255).round()
    own = [row[label] for row, label in zip(rounded, LABELS.tolist(), strict=True)]
    after = [row[(label + 1) % 3] for row, label in zip(rounded, LABELS.tolist(), strict=True)]
    assert [o == a for o, a in zip(own, after, strict=True)] == [True, False, False, True]
    assert found["adversarial_8bit"][1:3] == [2, 2]
    moved = scored({"exact": made}, random={"select": [0] * B, "8bit": [0, 0, 0.3, 0]}).outcomes
    assert moved["adversarial_8bit"][2] == 0


# --- contradictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attacked", "judged", "count"),
    [
        ([0.011, 0.5, -1, -1], [-0.1, -0.1, 0.1, -0.1], 2),
        ([0.0099, 0.005, -1, -1], [-0.1] * 4, 0),  # within the rounding of an honest net
        ([0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.0], 1),
    ],
)
def test_an_image_that_fooled_the_pipeline_for_the_attack_alone_contradicts(
    attacked: list[float], judged: list[float], count: int
) -> None:
    made = {"exact": margins(*judged), "target-only": CLEAN}
    assert scored(made, relative={"exact": attacked}).stored["contradicted"] == count
    # another model than the judged pipeline, or another draw
    assert scored(made, relative={"target-only": attacked}).stored["contradicted"] == 0
    assert scored(made, relative={"exact": attacked}, random={}).stored["contradicted"] == 0


def test_contradictions_of_all_routes_add_up() -> None:
    made = {"exact": CLEAN, "bpda-identity": CLEAN, "bank": CLEAN}
    relative = {"exact": [1.0, 0, 0, 0], "bpda-identity": [1.0, 1.0, 0, 0], "bank": [1.0] * 4}
    assert scored(made, relative=relative).stored["contradicted"] == 3  # the bank is no pipeline


# --- the box and the ball ------------------------------------------------------------------------------


def changed(by: float, pixel: float = 0.5) -> Tensor:
    """The clean images, with one pixel of the last one changed."""
    found = CLEAN.clone()
    found[-1, 0, 5, 5] = pixel + by
    return found


@pytest.mark.parametrize(
    ("value", "fault"),
    [(-1e-5, True), (-0.5 * TOLERANCE, False), (0.0, False), (1.0, False), (1 + 1e-5, True), (2.0, True)],
)
def test_images_outside_of_the_box_fail(value: float, fault: bool) -> None:
    made = changed(value, 0.0)
    for of in (BALL, CW):
        if fault:
            with pytest.raises(PluginError, match="left the box"):
                scored({"clean": CLEAN, "exact": made}, of=of)
        elif value in (0.0, 1.0):  # the purifier refuses what rounding adds
            scored({"clean": CLEAN, "exact": made}, of=of)


@pytest.mark.parametrize(("by", "fault"), [(0.25, False), (0.2501, True), (-0.25, False), (-0.2501, True)])
def test_images_outside_of_the_ball_fail(by: float, fault: bool) -> None:
    of = replace(PGD, eps=0.25)
    if fault:
        with pytest.raises(PluginError, match=r"exact.* left the ball: linf 0\.25"):
            scored({"clean": CLEAN, "exact": changed(by)}, of=of)
        scored({"clean": CLEAN, "exact": changed(by)}, of=CW)  # it has no ball
    else:
        scored({"clean": CLEAN, "exact": changed(by)}, of=of)


def test_the_ball_is_measured_in_its_norm() -> None:
    three = CLEAN.clone()
    three[0, 0, 5, 5:8] += 0.2
    length = float((three - CLEAN).norm())
    scored({"exact": three}, of=attack("pgd", length, "l2"))
    with pytest.raises(PluginError, match="left the ball: l2"):
        scored({"exact": three}, of=attack("pgd", length - 1e-4, "l2"))


def test_scores_that_are_not_finite_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        scores = x[:, 0, 0, :CLASSES].clone()
        scores[-1, 0] = float("inf")
        return scores

    monkeypatch.setattr(FirstPixels, "forward", forward)
    with pytest.raises(PluginError, match="not finite"):
        scored({"exact": CLEAN})


def test_costs_are_those_of_all_attacks_of_the_cell() -> None:
    store = scored({"clean": CLEAN, "exact": CLEAN, "bpda-identity": CLEAN})
    assert store.stored["costs"] == {
        "craft_ms": 4000.0,
        "forwards": 6.0,
        "backwards": 4.0,
        "purifies": 2.0,
        "blind": 0.0,
        "purify_ms": 2000.0,
    }
    assert store.stored["score_factors"] == {"exact": 2.0, "bpda-identity": 2.0}
    assert store.stored["images"] == B


# --- declarations ------------------------------------------------------------------------------------


def purified(moves: dict[int, Sequence[float]], *, stochastic: bool) -> dict[str, Any]:
    """Purify the clean images by a defense whose next draw differs by `moves`, from the seed of the task."""
    (cell,) = only(BALL, n=B)
    task = cell.scores[0].clean
    (stage,) = task.purifier.parts
    spec = replace(stage.defense, stochastic=stochastic)
    task = replace(task, purifier=replace(task.purifier, parts=(replace(stage, defense=spec),)))
    store = Store(ByDraw({task.noise_seed + shift: values for shift, values in moves.items()}))
    purify(task, store)  # type: ignore[arg-type]
    return store.stored


@pytest.mark.parametrize(("by", "fault"), [(0.0, False), (0.9e-4, False), (1.1e-4, True), (0.3, True)])
def test_a_defense_that_does_not_declare_its_randomness_fails(by: float, fault: bool) -> None:
    moves = {1: [0.0, 0.0, by, 0.0]}
    if fault:
        with pytest.raises(PluginError, match="is random but does not declare"):
            purified(moves, stochastic=False)
    else:
        assert torch.equal(purified(moves, stochastic=False)["images"], CLEAN)


def test_a_defense_that_declares_randomness_without_any_fails() -> None:
    with pytest.raises(PluginError, match="its draws are the same"):
        purified({}, stochastic=True)
    assert torch.equal(purified({1: [0, 0, 0, 0.3]}, stochastic=True)["images"], CLEAN)
