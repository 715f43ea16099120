"""Momentum iterative method (Dong et al. 2018, "Boosting Adversarial Attacks with Momentum", algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from attacks.ascent import Ascent, AscentConfig, ascend
from attacks.ball import Ball
from attacks.contract import Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param


class MimConfig(AscentConfig):
    """`eps`: radius of the L∞ ball; `alpha`: step, default `2.5 · eps / steps`; `decay`: of the momentum.

    The paper takes 10 steps of `eps / 10`.
    """

    lacks: ClassVar = {"foolbox": frozenset({"loss"}), "art": frozenset({"loss"})}

    decay: float = param(1.0, ge=0)
    backend: Literal["native", "foolbox", "art"] = "native"


@attack("mim")
class Mim(Ascent[MimConfig]):
    """Steps along the sign of a running sum of gradients, each over its mean absolute value.

    Keeps each image's most wrong iterate. Foolbox sums gradients as they are, which lets those of less
    certain scores outweigh the others.
    """

    @property
    def norm(self) -> Norm:
        return "linf"

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        config = self.config
        ball = Ball(x, config.eps, "linf")
        begin = x if start is None else start
        return ascend(
            surface,
            goal,
            begin,
            ball,
            alpha=config.step,
            steps=config.steps,
            loss=config.loss,
            decay=config.decay,
        )[0]

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from foolbox.attacks import LinfMomentumIterativeFastGradientMethod

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        library = LinfMomentumIterativeFastGradientMethod(
            momentum=config.decay, abs_stepsize=config.step, steps=config.steps
        )
        return run_foolbox(library, surface, x, goal, config.eps)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import MomentumIterativeMethod

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: MomentumIterativeMethod(
                classifier,
                eps=config.eps,
                eps_step=config.step,
                decay=config.decay,
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
