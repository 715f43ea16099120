"""Total variation minimisation.

Guo et al. 2018, "Countering Adversarial Images Using Input Transformations", calls
it total variance minimisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense, infer


class TvMinConfig(Config):
    """`keep`: share of the pixels that are kept; `weight`: weight of the total variation.

    `iterations`: gradient steps. `smoothing` makes the absolute value differentiable at 0: smaller values
    give sharper edges and slower convergence.
    """

    keep: float = infer(0.5, gt=0, le=1)
    weight: float = infer(0.03, ge=0)
    iterations: int = infer(30, ge=1)
    smoothing: float = infer(0.03, gt=0)


@defense("tv-min")
class TvMin(Defense[TvMinConfig]):
    """Drops random pixels and reconstructs the image with minimal total variation.

    It minimises ½ ‖mask · (z − x)‖² + weight · TV(z) by accelerated gradient steps, where TV is the smoothed
    isotropic total variation of each channel. Guo et al. sum the norms of whole rows and columns and do not
    square the first term. ART's implementation of that is not used, because its gradient is not that of its
    loss, and because it draws the mask from numpy's global generator.

    Every step is differentiable, so that attacks get the gradient of all of them.
    """

    stochastic = True
    inner_optimisation = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        config = self.config
        mask = (noise.uniform_like(x[:, :1]) < config.keep).to(x.dtype)
        # dropped pixels start at the mean of the kept pixels around them
        weights = F.avg_pool2d(mask, 5, stride=1, padding=2)
        local_mean = F.avg_pool2d(mask * x, 5, stride=1, padding=2) / weights.clamp(min=1e-3)
        z = previous = torch.where(mask > 0, x, local_mean)
        # the inverse of the gradient's Lipschitz constant
        step = 1 / (1 + 8 * config.weight / config.smoothing)
        for i in range(config.iterations):
            lookahead = z + i / (i + 3) * (z - previous)
            data_gradient = mask * (lookahead - x)
            gradient = data_gradient + config.weight * _variation_gradient(lookahead, config.smoothing)
            previous, z = z, lookahead - step * gradient
        return z.clamp(0, 1)


def _variation_gradient(z: Tensor, smoothing: float) -> Tensor:
    """The gradient of Σ sqrt(dx² + dy² + smoothing²) with forward differences dx and dy."""
    right = F.pad(z[..., :, 1:] - z[..., :, :-1], (0, 1))
    down = F.pad(z[..., 1:, :] - z[..., :-1, :], (0, 0, 0, 1))
    length = (right.square() + down.square() + smoothing**2).sqrt()
    right, down = right / length, down / length
    return F.pad(right, (1, 0))[..., :-1] - right + F.pad(down, (0, 0, 1, 0))[..., :-1, :] - down
