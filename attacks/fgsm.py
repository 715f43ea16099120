"""Fast gradient sign method (Goodfellow et al. 2015): native, through Foolbox and through ART."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.backends import MultiBackendAttack, TargetedBackendConfig
from benchmark.attacks.adapters.foolbox_adapter import run_foolbox
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Attack, Noise, Surface, attack, sweep


class FgsmConfig(TargetedBackendConfig):
    """`eps`: radius of the L∞ ball, on the [0, 1] scale."""

    unsupported_options: ClassVar = {"foolbox": frozenset({"targeted"})}

    eps: float = sweep(ge=0, le=1)
    backend: Literal["native", "foolbox", "art"] = "native"


@attack("fgsm")
class Fgsm(MultiBackendAttack[FgsmConfig]):
    """Takes one step of size `eps` along the sign of the gradient.

    A sweep of `eps` computes the gradient once.
    """

    norm = "linf"
    single_step = True

    @property
    def shares_sweep(self) -> bool:  # type: ignore[override]
        return self.config.backend == "native"

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        return _steps([self.config.eps], surface, x, goal)[0]

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        options = {"random_start": False}
        return run_foolbox("LinfFastGradientAttack", options, surface, x, goal, self.config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        options = {"eps": self.config.eps, "targeted": goal.target is not None}
        return run_art("FastGradientMethod", options, surface, x, goal, self.config.eps)

    @classmethod
    def craft_sweep(
        cls,
        attacks: Sequence[Attack[Any]],
        surface: Surface,
        x: Tensor,
        labels: Tensor,
        noises: Sequence[Noise],
    ) -> list[Tensor]:
        goal = attacks[0].config.goal(surface, x, labels, noises[0])
        return _steps([attack.config.eps for attack in attacks], surface, x, goal)


def _steps(radii: Sequence[float], surface: Surface, x: Tensor, goal: Goal) -> list[Tensor]:
    gradient, _ = goal.gradient(surface, x)
    sign = gradient.sign()
    return [(x + eps * sign).clamp_(0, 1) for eps in radii]
