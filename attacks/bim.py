"""Basic iterative method, the iterative gradient sign (Kurakin et al. 2017)."""

from __future__ import annotations

from torch import Tensor

from attacks.contract import Attack, Surface, attack
from attacks.gradients import sign_ascent
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, param, sweep


class BimConfig(Config):
    """`eps`: radius of the L∞ ball; `alpha`: step, default `eps / 10`; `steps`: number of steps.

    The APE-GAN paper's Table 9 is `steps: 2` with `alpha` as swept there.
    """

    eps: float = sweep(ge=0, le=1)
    alpha: float | None = param(None, gt=0, le=1)
    steps: int = param(40, ge=1)


@attack("bim")
class Bim(Attack[BimConfig]):
    """Repeated gradient-sign steps from the clean image; keeps each image's most wrong iterate."""

    takes_start = True

    @property
    def norm(self) -> Norm:
        return "linf"

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        eps, steps = self.config.eps, self.config.steps
        alpha = self.config.alpha if self.config.alpha is not None else eps / 10
        begin = x if start is None else start
        return sign_ascent(surface, x, labels, begin, eps=eps, alpha=alpha, steps=steps)[0]
