"""Fast gradient sign method (Goodfellow et al. 2015): native, through Foolbox and through ART."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from attacks.backends import Backed, BackedConfig
from attacks.contract import Attack, Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, sweep


class FgsmConfig(BackedConfig):
    """`eps`: radius of the L∞ ball, on the [0, 1] scale."""

    lacks: ClassVar = {"foolbox": frozenset({"targeted"})}

    eps: float = sweep(ge=0, le=1)
    backend: Literal["native", "foolbox", "art"] = "native"


@attack("fgsm")
class Fgsm(Backed[FgsmConfig]):
    """One step of `eps` along the sign of the gradient; one gradient serves a whole sweep of `eps`."""

    single_step = True

    @property
    def shares_sweep(self) -> bool:  # type: ignore[override]
        return self.config.backend == "native"

    @property
    def norm(self) -> Norm:
        return "linf"

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        return _steps([self.config.eps], surface, x, goal)[0]

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from foolbox.attacks import LinfFastGradientAttack

        from attacks.foolbox_adapter import run_foolbox

        return run_foolbox(LinfFastGradientAttack(random_start=False), surface, x, goal, self.config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import FastGradientMethod

        from attacks.art_adapter import run_art

        eps, targeted = self.config.eps, goal.target is not None
        return run_art(
            lambda classifier: FastGradientMethod(classifier, eps=eps, targeted=targeted, batch_size=len(x)),
            surface,
            x,
            goal,
            eps,
        )

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
