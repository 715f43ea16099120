"""Total variation minimisation (Guo et al. 2018, "Countering Adversarial Images ...").

The paper calls it total variance minimisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.noise import Noise
from benchmark.plugin import Config, infer
from defenses.contract import Defense, defense


class TvMinConfig(Config):
    """`keep`: share of pixels that are kept; `weight` of the total variation; `iterations` of descent.

    `smoothing` rounds off the corner of the absolute value; the smaller, the sharper the edges and the
    slower the descent.
    """

    keep: float = infer(0.5, gt=0, le=1)
    weight: float = infer(0.03, ge=0)
    iterations: int = infer(30, ge=1)
    smoothing: float = infer(0.03, gt=0)


@defense("tv-min")
class TvMin(Defense[TvMinConfig]):
    """Drops random pixels and fills the image in again with as little variation as possible.

    Minimises ½ ‖mask · (z − x)‖² + weight · TV(z) by accelerated gradient steps, TV being the smoothed
    isotropic total variation of each channel. Guo et al. sum the norms of whole rows and columns and do
    not square the first term; ART's version of that is not used because its gradient does not belong to
    its loss, and because it draws its mask from numpy's global generator.

    Every step is differentiable, so attacks see the whole of it.
    """

    stochastic = True
    inner_optimisation = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        config = self.config
        mask = (noise.uniform_like(x[:, :1]) < config.keep).to(x.dtype)
        # dropped pixels begin at the mean of the kept ones around them
        weights = F.avg_pool2d(mask, 5, stride=1, padding=2)
        around = F.avg_pool2d(mask * x, 5, stride=1, padding=2) / weights.clamp(min=1e-3)
        z = previous = torch.where(mask > 0, x, around)
        step = 1 / (1 + 8 * config.weight / config.smoothing)  # of the gradient's Lipschitz constant
        for i in range(config.iterations):
            ahead = z + i / (i + 3) * (z - previous)
            gradient = mask * (ahead - x) + config.weight * _variation_gradient(ahead, config.smoothing)
            previous, z = z, ahead - step * gradient
        return z.clamp(0, 1)


def _variation_gradient(z: Tensor, smoothing: float) -> Tensor:
    """Gradient of Σ sqrt(dx² + dy² + smoothing²), differences to the right and downwards."""
    right = F.pad(z[..., :, 1:] - z[..., :, :-1], (0, 1))
    down = F.pad(z[..., 1:, :] - z[..., :-1, :], (0, 0, 0, 1))
    length = (right.square() + down.square() + smoothing**2).sqrt()
    right, down = right / length, down / length
    return F.pad(right, (1, 0))[..., :-1] - right + F.pad(down, (0, 0, 1, 0))[..., :-1, :] - down
