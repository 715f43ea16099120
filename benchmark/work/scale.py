"""The size of a classifier's scores, and the factor that brings it to where attacks can follow them.

The cross-entropy depends on the unit of the scores. If they are small, its gradient weighs all wrong classes
alike, and attacks that follow it find less. If they are large, its gradient is zero in float32, as libraries
compute it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import Splits

SMALLEST, LARGEST = 6.0, 200.0
"""Median spreads, best score less worst, between which scores are left as they are.

Nets trained as usual spread over 13 to 55, so that a tenth of their scores lies below. Probabilities and
cosines spread over 1 and 2 at most. Label-smoothed nets (3.2 to 5.6) and a few adversarially trained ones
(from 4.6) lie below too: with scores of the wanted size PGD found more on each of those that were tried.
"""

_WANTED = 16.0
"""The spread that other scores are brought to, near the median of those nets.

Attacks on 12 of them found most at spreads of 14 to 50.
"""

_HIGHEST = 1e30
"""A factor that float32 can hold."""

_IMAGES = 64


def sample(splits: Splits) -> Tensor:
    """The images that scores are measured on: the same ones for every shard, batch and attack.

    They are spread evenly over the training images. Data sets without any use validation or test images.
    """
    split = next((s for s in (splits.train, splits.validation) if len(s)), splits.test)
    count = min(_IMAGES, len(split))
    return split.take(torch.arange(count) * len(split) // max(1, count))


def factor_of(scores: Tensor) -> float:
    """What to multiply scores (B, classes) by: 1 if they are of ordinary size.

    Otherwise they come to the same size, whatever their unit was. Scores that are not finite, or that are all
    alike, are left as they are.
    """
    count, classes = scores.shape
    if count == 0 or classes < 2 or not torch.isfinite(scores).all():
        return 1.0
    exact = scores.double()
    spread = float((exact.amax(dim=1) - exact.amin(dim=1)).median())
    # with few classes honest scores lie closer together, and the wrong ones need less telling apart
    smallest = SMALLEST * min(1.0, math.log10(classes))
    if spread == 0 or smallest < spread <= LARGEST:
        return 1.0
    return min(_WANTED / spread, _HIGHEST)


class ScaledTarget(nn.Module):
    """A classifier with its scores (B, classes) multiplied by a positive factor: the same answers."""

    def __init__(self, target: nn.Module, factor: float) -> None:
        super().__init__()
        self.target = target
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.target(x)  # type: ignore[no-any-return]
