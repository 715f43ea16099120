"""What attacks declare: a wrong declaration leaves out routes, or ranks a row after a weak attack."""

from __future__ import annotations

from typing import Any

import pytest
from benchmark.attacks.apgd_ce import ApgdCe, ApgdCeConfig
from benchmark.attacks.apgd_dlr_targeted import ApgdDlrTargeted, ApgdDlrTargetedConfig
from benchmark.attacks.fgsm import Fgsm, FgsmConfig
from benchmark.attacks.pgd import Pgd, PgdConfig
from benchmark.attacks.square import Square, SquareConfig
from pydantic import ValidationError

from benchmark.api import BallConfig
from benchmark.plugins.registry import default_registry

FLAGS = (
    "stochastic",
    "takes_start",
    "needs_determinism",
    "needs_latents",
    "scalable",
    "single_step",
    "trainable",
)
DECLARED = {
    "advgan": {"trainable"},
    "apgd-ce": {"stochastic", "scalable", "takes_start"},
    "apgd-dlr-targeted": {"stochastic", "scalable"},
    "bim": {"scalable", "takes_start"},
    "cw-l0": set(),
    "cw-l2": set(),
    "cw-linf": set(),
    "deepfool": set(),
    "fgsm": {"single_step"},
    "hopskipjump": {"stochastic", "needs_determinism"},
    "jsma": set(),
    "l-bfgs": set(),
    "mim": {"scalable", "takes_start"},
    "noise": {"stochastic"},
    "on-manifold": {"stochastic", "needs_latents", "scalable"},
    "pgd": {"stochastic", "scalable", "takes_start"},
    "square": {"stochastic"},
    "uniform-noise": {"stochastic"},
}
USES = {"hopskipjump": "labels", "noise": "nothing", "square": "scores", "uniform-noise": "nothing"}
WEAK = {"cw-l0": {"art"}, "cw-l2": {"art"}, "cw-linf": {"art"}, "jsma": {"art"}, "apgd-dlr-targeted": {"art"}}


def test_every_attack_declares_what_it_is() -> None:
    registry = default_registry()
    plugins: dict[str, Any] = {name: registry.get("attack", name).load() for name in registry.names("attack")}
    declared = {name: {f for f in FLAGS if getattr(plugin, f)} for name, plugin in plugins.items()}
    assert declared == DECLARED
    uses = {name: plugin.uses for name, plugin in plugins.items() if plugin.uses != "gradients"}
    assert uses == USES
    weak = {name: set(plugin.weak_backends) for name, plugin in plugins.items() if plugin.weak_backends}
    assert weak == WEAK


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"steps": 40}, True),
        ({"steps": 10}, True),
        ({"steps": 9}, False),
        ({"steps": 40, "alpha": 0.001}, False),
        ({"steps": 10, "alpha": 0.05}, True),  # the steps together are as long as the ball is wide
        ({"steps": 10, "alpha": 0.0499}, False),
        ({"steps": 40, "targeted": "next"}, False),
    ],
)
def test_only_a_pgd_that_can_cross_the_ball_is_mandatory(settings: dict[str, Any], counts: bool) -> None:
    assert Pgd(PgdConfig(eps=0.25, **settings)).mandatory == counts


def test_only_our_own_fgsm_computes_a_sweep_at_once() -> None:
    assert Fgsm(FgsmConfig(eps=0.1)).shares_sweep
    assert not Fgsm(FgsmConfig(eps=0.1, backend="art")).shares_sweep


@pytest.mark.parametrize(("steps", "counts"), [(9, False), (10, True), (100, True)])
def test_auto_pgd_is_mandatory_from_ten_steps_on(steps: int, counts: bool) -> None:
    assert ApgdCe(ApgdCeConfig(eps=0.3, steps=steps)).mandatory == counts
    assert ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0.3, steps=steps)).mandatory == counts


@pytest.mark.parametrize(("steps", "counts"), [(999, False), (1000, True)])
def test_square_is_mandatory_from_a_thousand_squares_on(steps: int, counts: bool) -> None:
    assert Square(SquareConfig(eps=0.3, steps=steps)).mandatory == counts


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="no L∞ ball is larger"):
        BallConfig(eps=1.01)
    assert BallConfig(eps=1.0).eps == 1.0
    assert BallConfig(eps=1.01, distance="l2").eps == 1.01
    with pytest.raises(ValidationError, match="every run is the same"):
        PgdConfig(eps=0.1, restarts=2, random_start=False)
    assert PgdConfig(eps=0.1, restarts=1, random_start=False).restarts == 1
