"""The options that attacks give to Foolbox and ART: a wrong one is silently a weaker attack."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api.attack import Surface
from benchmark.api.noise import Noise
from benchmark.plugins.registry import default_registry


class Blank(Surface):
    def __init__(self) -> None:
        super().__init__(5, (1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5]


QUIET = {"verbose": False}
STEPS = {"eps": 0.2, "eps_step": 0.125, "max_iter": 4} | QUIET
AUTO = {"norm": "inf", "eps": 0.2, "eps_step": 0.4, "max_iter": 4} | QUIET
CW = {"confidence": 0.5, "targeted": False, "learning_rate": 0.25, "max_iter": 4} | QUIET
BALL = {"eps": 0.2, "steps": 4}
OPTIONS: list[tuple[str, dict[str, Any], str, str, dict[str, Any]]] = [
    ("fgsm", {"eps": 0.2}, "art", "FastGradientMethod", {"eps": 0.2, "targeted": False}),
    ("fgsm", {"eps": 0.2}, "foolbox", "LinfFastGradientAttack", {"random_start": False}),
    ("bim", BALL | {"alpha": 0.125}, "art", "BasicIterativeMethod", STEPS | {"targeted": False}),
    ("bim", BALL | {"alpha": 0.125}, "foolbox", "LinfBasicIterativeAttack",
     {"abs_stepsize": 0.125, "steps": 4, "random_start": False}),
    ("mim", BALL | {"decay": 0.5}, "art", "MomentumIterativeMethod",
     STEPS | {"targeted": False, "decay": 0.5}),
    ("mim", BALL | {"decay": 0.5}, "foolbox", "LinfMomentumIterativeFastGradientMethod",
     {"abs_stepsize": 0.125, "steps": 4, "momentum": 0.5}),
    ("pgd", BALL | {"restarts": 3}, "art", "ProjectedGradientDescentPyTorch",
     STEPS | {"targeted": False, "norm": "inf", "num_random_init": 3}),
    ("pgd", BALL | {"random_start": False, "distance": "l2"}, "art", "ProjectedGradientDescentPyTorch",
     STEPS | {"targeted": False, "norm": 2, "num_random_init": 0}),
    ("pgd", BALL | {"targeted": "next"}, "foolbox", "LinfPGD",
     {"abs_stepsize": 0.125, "steps": 4, "random_start": True}),
    ("pgd", BALL | {"distance": "l2", "random_start": False}, "foolbox", "L2PGD",
     {"abs_stepsize": 0.125, "steps": 4, "random_start": False}),
    ("apgd-ce", BALL | {"restarts": 3}, "art", "AutoProjectedGradientDescent",
     AUTO | {"nb_random_init": 3, "loss_type": "cross_entropy"}),
    ("apgd-dlr-targeted", BALL | {"classes": 1, "distance": "l2"}, "art", "AutoProjectedGradientDescent",
     AUTO | {"norm": 2, "targeted": True, "nb_random_init": 1, "loss_type": "difference_logits_ratio"}),
    ("square", BALL | {"p_init": 0.3, "restarts": 2}, "art", "SquareAttack",
     {"norm": "inf", "max_iter": 4, "eps": 0.2, "p_init": 0.3, "nb_restarts": 2} | QUIET),
    ("deepfool", {"steps": 4, "overshoot": 0.25}, "art", "DeepFool",
     {"max_iter": 4, "epsilon": 0.25, "nb_grads": 5} | QUIET),
    ("deepfool", {"steps": 4, "candidates": 9}, "foolbox", "L2DeepFoolAttack",
     {"steps": 4, "candidates": 5, "overshoot": 0.02}),
    ("deepfool", {"distance": "linf", "candidates": 3}, "foolbox", "LinfDeepFoolAttack",
     {"steps": 50, "candidates": 3, "overshoot": 0.02}),
    ("cw-l2", {"kappa": 0.5, "steps": 4, "lr": 0.25, "search_steps": 3, "initial_c": 2.0}, "art",
     "CarliniL2Method", CW | {"binary_search_steps": 3, "initial_const": 2.0}),
    ("cw-l2", {"kappa": 0.5, "steps": 4, "lr": 0.25, "search_steps": 3, "initial_c": 2.0}, "foolbox",
     "L2CarliniWagnerAttack",
     {"binary_search_steps": 3, "steps": 4, "stepsize": 0.25, "confidence": 0.5, "initial_const": 2.0,
      "abort_early": True}),
    ("cw-l0", {"kappa": 0.5, "steps": 4, "lr": 0.25, "search_steps": 3, "initial_c": 2.0}, "art",
     "CarliniL0Method", CW | {"binary_search_steps": 3, "initial_const": 2.0}),
    ("cw-linf", {"kappa": 0.5, "steps": 4, "lr": 0.25, "decrease": 0.5}, "art", "CarliniLInfMethod",
     CW | {"decrease_factor": 0.5, "initial_const": 1.0, "largest_const": 1.0000000000000002}
     | {"batch_size": 1}),
    ("jsma", {"theta": 0.5, "gamma": 0.25}, "art", "SaliencyMapMethod",
     {"theta": 0.5, "gamma": (16 - 2) / 64} | QUIET),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "backend", "library_name", "options"), OPTIONS)
def test_the_library_gets_the_settings_of_the_attack(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
    backend: str,
    library_name: str,
    options: dict[str, Any],
) -> None:
    calls: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = []

    def run(called: str, given: dict[str, Any], surface: Surface, x: Tensor, goal: Any, *more: Any) -> Tensor:
        calls.append((called, given, more))
        return x

    plugin: Any = default_registry().get("attack", name).load()
    shared = importlib.import_module("benchmark.attacks.steps.auto_pgd")
    for module in (importlib.import_module(plugin.__module__), shared):
        monkeypatch.setattr(module, f"run_{backend}", run, raising=False)
    attack = plugin(plugin.config_type()(**settings, backend=backend))
    x, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    attack.craft(Blank(), x, labels, Noise(0, range(2)))
    ((called, given, more),) = calls
    assert called == library_name
    assert given == options
    assert more == ((settings["eps"],) if "eps" in settings else ())


def test_hopskipjump_starts_from_images_that_reach_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("benchmark.attacks.hopskipjump")
    seen: dict[str, Any] = {}

    def run(
        called: str, given: dict[str, Any], surface: Surface, x: Tensor, goal: Any, **more: Any
    ) -> Tensor:
        seen.update(
            given | more | {"called": called, "reached": goal.margin(surface(more["starting_points"]))}
        )
        return x

    monkeypatch.setattr(module, "run_foolbox", run)
    config = module.HopSkipJumpConfig(steps=3, first_queries=5, most_queries=9, distance="linf")
    labels = torch.arange(5)
    module.HopSkipJump(config).craft(Blank(), torch.rand(5, 1, 8, 8), labels, Noise(0, range(5)))
    assert (seen["reached"] > 0).all()
    assert seen["called"] == "HopSkipJumpAttack"
    assert {name: seen[name] for name in ("steps", "constraint")} == {"steps": 3, "constraint": "linf"}
    assert (seen["initial_gradient_eval_steps"], seen["max_gradient_eval_steps"]) == (5, 9)
