"""Basic iterative method, the iterative gradient sign (Kurakin et al. 2017): native, Foolbox, ART."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from attacks.ascent import Ascent, AscentConfig, ascend
from attacks.ball import Ball
from attacks.contract import Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm


class BimConfig(AscentConfig):
    """`eps`: radius of the L∞ ball; `alpha`: step, default `eps / 10`; `steps`: number of steps.

    The APE-GAN paper's Table 9 is `steps: 2` with `alpha` as swept there.
    """

    lacks: ClassVar = {"foolbox": frozenset({"loss"}), "art": frozenset({"loss"})}

    backend: Literal["native", "foolbox", "art"] = "native"

    @property
    def step(self) -> float:
        return self.alpha if self.alpha is not None else self.eps / 10


@attack("bim")
class Bim(Ascent[BimConfig]):
    """Repeated gradient-sign steps from the clean image; keeps each image's most wrong iterate."""

    @property
    def norm(self) -> Norm:
        return "linf"

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        config = self.config
        ball = Ball(x, config.eps, "linf")
        begin = x if start is None else start
        return ascend(surface, goal, begin, ball, alpha=config.step, steps=config.steps, loss=config.loss)[0]

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from foolbox.attacks import LinfBasicIterativeAttack

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        library = LinfBasicIterativeAttack(abs_stepsize=config.step, steps=config.steps, random_start=False)
        return run_foolbox(library, surface, x, goal, config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import BasicIterativeMethod

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: BasicIterativeMethod(
                classifier,
                eps=config.eps,
                eps_step=config.step,
                max_iter=config.steps,
                targeted=goal.target is not None,
                batch_size=len(x),
                verbose=False,
            ),
            surface,
            x,
            goal,
            config.eps,
        )
