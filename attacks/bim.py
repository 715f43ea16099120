"""Basic iterative method (Kurakin et al. 2017, "Adversarial Examples in the Physical World", section 2.2).

Native, through Foolbox and through ART.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.foolbox_adapter import run_foolbox
from benchmark.attacks.steps.goal import Goal
from benchmark.attacks.steps.iterative import IterativeAttack, IterativeConfig
from torch import Tensor

from benchmark.api import Surface, attack


class BimConfig(IterativeConfig):
    """`eps`: radius of the L∞ ball; `alpha`: step size, by default `eps / 10`; `steps`: number of steps.

    Table 9 of the APE-GAN paper uses `steps: 2` and sweeps `alpha`.
    """

    unsupported_options: ClassVar = {"foolbox": frozenset({"loss"}), "art": frozenset({"loss"})}

    backend: Literal["native", "foolbox", "art"] = "native"

    @property
    def step(self) -> float:
        return self.alpha if self.alpha is not None else self.eps / 10


@attack("bim")
class Bim(IterativeAttack[BimConfig]):
    """Repeats gradient-sign steps from the clean image and keeps the iterate with the largest margin."""

    norm = "linf"

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        options = self.foolbox_options() | {"random_start": False}
        return run_foolbox("LinfBasicIterativeAttack", options, surface, x, goal, self.config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        return run_art("BasicIterativeMethod", self.art_options(goal), surface, x, goal, self.config.eps)
