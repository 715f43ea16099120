"""The size of a classifier's scores, and the factor that makes it suitable for gradient attacks.

The cross-entropy depends on the unit of the scores. If the scores are small, its gradient weights all wrong
classes alike, and attacks that follow it find less. If they are large, its gradient as libraries compute it
is zero in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmark.api.dataset import Splits

SMALLEST, LARGEST = 6.0, 200.0
"""Median spreads (best minus worst score) between which scores are left unchanged.

Nets trained as usual have spreads of 13 to 55; a tenth of these would be too small. Probabilities and cosines
have spreads of at most 1 and 2. Label-smoothed nets (3.2 to 5.6) and a few adversarially trained
nets (from 4.6) lie below the interval too: with rescaled scores PGD found more on each one that was tried.
"""

_WANTED = 16.0
"""The spread after rescaling, near the median of those nets.

Attacks on 12 of them found most at spreads of 14 to 50.
"""

_MAX_SCALE = 1e30
"""A factor that float32 can hold."""

_IMAGES = 64


def scaling_images(splits: Splits) -> Tensor:
    """The images on which scores are measured: the same for every shard, batch and attack.

    They are spread evenly over the training images. Data sets without training images use validation
    images, else test images.
    """
    split = next((s for s in (splits.train, splits.validation) if len(s)), splits.test)
    count = min(_IMAGES, len(split))
    return split.take(torch.arange(count) * len(split) // max(1, count))


def scale_for(scores: Tensor) -> float:
    """The factor that gives scores (B, classes) an ordinary size; 1 if they have one.

    The size is the median spread. Outside of the ordinary interval the factor brings it to one fixed value,
    whatever the unit of the scores is. The factor is 1 too if scores are not finite or all equal.
    """
    count, classes = scores.shape
    if count == 0 or classes < 2 or not torch.isfinite(scores).all():
        return 1.0
    exact = scores.double()
    spread = float((exact.amax(dim=1) - exact.amin(dim=1)).median())
    # few classes: honest scores have smaller spreads, and there are fewer wrong classes to weight
    smallest = SMALLEST * min(1.0, math.log10(classes))
    if spread == 0 or smallest < spread <= LARGEST:
        return 1.0
    return min(_WANTED / spread, _MAX_SCALE)


class ScaledTarget(nn.Module):
    """A classifier with its scores (B, classes) multiplied by a positive factor, which keeps the classes."""

    def __init__(self, target: nn.Module, scale: float) -> None:
        super().__init__()
        self.target = target
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.target(x)  # type: ignore[no-any-return]
