"""Momentum iterative method (Dong et al. 2018, "Boosting Adversarial Attacks with Momentum")."""

from __future__ import annotations

from typing import ClassVar, Literal

from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.foolbox_adapter import run_foolbox
from benchmark.attacks.steps.goal import Goal
from benchmark.attacks.steps.iterative import IterativeAttack, IterativeConfig
from torch import Tensor

from benchmark.api import Surface, attack, param


class MimConfig(IterativeConfig):
    """`eps`: radius of the L∞ ball; `alpha`: step size, by default `2.5 · eps / steps`.

    `decay`: decay factor μ of the momentum. The paper uses 10 steps of `eps / 10`.
    """

    unsupported_options: ClassVar = {"foolbox": frozenset({"loss"}), "art": frozenset({"loss"})}

    decay: float = param(1.0, ge=0)
    backend: Literal["native", "foolbox", "art"] = "native"


@attack("mim")
class Mim(IterativeAttack[MimConfig]):
    """Takes steps along the sign of the momentum, a decaying sum of normalised gradients.

    Each gradient is divided by its mean absolute value. The iterate with the largest margin is kept. Foolbox
    does not normalise the gradients, so that large gradients, at less confident outputs, outweigh the others.
    """

    norm = "linf"

    @property
    def decay(self) -> float:
        return self.config.decay

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        name, options = "LinfMomentumIterativeFastGradientMethod", {"momentum": self.decay}
        return run_foolbox(name, self.foolbox_options() | options, surface, x, goal, self.config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        options = self.art_options(goal) | {"decay": self.decay}
        return run_art("MomentumIterativeMethod", options, surface, x, goal, self.config.eps)
