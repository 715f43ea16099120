"""What the gradient probe stores of a surface, and what an attack's images are checked for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api.attack import Attack
from benchmark.api.noise import Noise
from benchmark.errors import BudgetError, PluginError
from benchmark.execution import craft as crafting
from benchmark.execution.surfaces import MeteredSurface
from benchmark.plan.tasks import Craft, GradientProbe
from benchmark.plugins.plugin import Config
from tests.results.hand_made import PGD, only

SHAPE = (1, 1, 2)
CLEAN = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).reshape(2, *SHAPE)
LABELS = torch.tensor([0, 1])


class Linear(nn.Module):
    """Three classes: a first pixels, b second pixels, and −0.1."""

    def __init__(self, a: float = 1.0, b: float = 1.0, *, rounds: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.rounds = a, b, rounds

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 2).round() / 2 if self.rounds else x
        first, second = x.flatten(1).T
        return torch.stack([self.a * first, self.b * second, 0 * first - 0.1], dim=1)


class Context:
    """Stands for the context of a run, with one surface."""

    device = torch.device("cpu")
    budget = math.inf
    allowance = "the budget"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: nn.Module, attack: Any = None) -> None:
        self.surface = MeteredSurface(model, 3, SHAPE)
        self.made = attack
        self.stored: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        monkeypatch.setattr(crafting, "make_surface", lambda *args, **kw: self.surface)

    def clean(self, shard: Any) -> tuple[Tensor, Tensor]:
        return CLEAN.clone(), LABELS.clone()

    def attack(self, task: Any) -> Any:
        return self.made

    def score_scale(self, target: Any) -> float:
        return 2.0

    def images(self, task: Any, shard: Any) -> Tensor:
        return CLEAN / 2

    def put_tensors(self, task: Any, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.stored, self.meta = tensors, meta


def probe(monkeypatch: pytest.MonkeyPatch, model: nn.Module, *, of_target: bool = True) -> dict[str, Any]:
    (cell,) = only(PGD, n=2)
    tasks = {task.surface.purifier is None: task for task in cell.probes}
    context = Context(monkeypatch, model)
    task: GradientProbe = tasks[of_target]
    crafting.probe_gradient(task, context)  # type: ignore[arg-type]
    return context.stored


def test_the_largest_gradient_of_both_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(monkeypatch, Linear())
    first, second = CLEAN.flatten(1).T
    scores = torch.stack([first, second, 0 * first - 0.1], dim=1)
    away = scores.scatter(1, LABELS[:, None], -math.inf).softmax(dim=1)
    # the weight of the other class with a pixel is below 1, so the largest is that of the label's own pixel
    assert (away.amax(dim=1) < 1).all()
    assert found["stable"].tolist() == pytest.approx([1.0, 1.0])
    own = 1 - scores.softmax(dim=1).gather(1, LABELS[:, None]).squeeze(1)
    assert found["plain"].tolist() == pytest.approx(own.tolist(), rel=1e-5)
    assert found["responds"].tolist() == [True, True]
    assert found["classes"].tolist() == [1, 1]


def test_only_the_loss_of_the_libraries_vanishes_at_a_confident_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = probe(monkeypatch, Linear(-1e4, 1e4))
    assert (found["stable"] > 0).all()
    assert found["plain"].tolist() == [1e4, 0.0]  # the second image is right


def test_scores_between_the_steps_of_a_quantiser_do_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(monkeypatch, Linear(rounds=True))
    assert found["responds"].tolist() == [False, False]
    assert not found["stable"].any()


def test_the_classes_are_those_of_the_bare_target_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "classes" not in probe(monkeypatch, Linear(), of_target=False)


# --- crafting --------------------------------------------------------------------------------------------


class Returns(Attack[Config]):
    """Returns what it is told to, after one call of the surface."""

    name = "returns"
    eps = 0.3
    norm = "linf"

    def __init__(self, result: Any) -> None:
        super().__init__(Config())
        self.result = result
        self.start: Tensor | None = None

    def craft(
        self, surface: Any, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        surface(x)
        x.mul_(0)  # the attack has copies of its own
        self.start = start
        if isinstance(self.result, Exception):
            raise self.result
        return self.result  # type: ignore[no-any-return]


def craft(monkeypatch: pytest.MonkeyPatch, result: Any, **changes: Any) -> Context:
    (cell,) = only(PGD, n=2)
    (task,) = (c.craft for c in cell.scores[0].candidates if c.route == "exact")
    assert isinstance(task, Craft)
    attack = Returns(result)
    context = Context(monkeypatch, Linear(), attack)
    for name, value in changes.items():
        setattr(context, name, value)
    if "start" in changes:
        task = replace(task, start=task)
    crafting.craft(task, context)  # type: ignore[arg-type]
    return context


def test_margins_are_stored_relative_to_the_spread_of_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 0.1, 0.4, −0.1 of class 0: a margin of 0.3, a spread of 0.5. Scores 0.5, 0, −0.1 of class 1."""
    images = torch.tensor([[0.1, 0.4], [0.5, 0.0]]).reshape_as(CLEAN)
    context = craft(monkeypatch, images)
    assert torch.equal(context.stored["images"], images)
    assert context.stored["relative_margin"].tolist() == pytest.approx([0.6, 0.5 / 0.6])
    assert context.meta["images"] == 2
    assert (context.meta["forwards"], context.meta["backwards"]) == (1.0, 0.0)  # per image, for the attack
    assert context.meta["score_factor"] == 2.0
    flat = craft(monkeypatch, torch.zeros_like(CLEAN))
    assert flat.stored["relative_margin"].tolist() == [0.0, 0.0]


def test_a_start_is_given_to_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert craft(monkeypatch, CLEAN.clone()).made.start is None
    started = craft(monkeypatch, CLEAN.clone(), start=True).made.start
    assert torch.equal(started, CLEAN / 2)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned NoneType"),
        (CLEAN[:1], r"returned \(1, 1, 1, 2\)"),
        (CLEAN.double(), "float32"),
        (CLEAN / 0, "not finite"),
        (CLEAN * float("nan"), "not finite"),
        (ValueError("no step size"), "attack pgd raised .*no step size"),
    ],
)
def test_images_that_are_none_fail(monkeypatch: pytest.MonkeyPatch, result: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        craft(monkeypatch, result)


@pytest.mark.parametrize(("budget", "fits"), [(1.0, True), (0.9, False)])
def test_the_budget_is_per_image(monkeypatch: pytest.MonkeyPatch, budget: float, fits: bool) -> None:
    if fits:
        craft(monkeypatch, CLEAN.clone(), budget=budget)
    else:
        with pytest.raises(BudgetError, match="attack pgd used more than the budget"):
            craft(monkeypatch, CLEAN.clone(), budget=budget)
