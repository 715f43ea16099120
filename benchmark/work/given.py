"""Classifiers that somebody brings: whether one can be used, and whether it still is what it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.datasets.contract import TrainingData
from benchmark.errors import PluginError
from benchmark.training import not_finite
from targets.contract import GivenTarget

_TRIED = 3

_MOVED = 0.01
"""By how much of the largest score another device, or another number of threads, moves none of them."""


def try_out(model: GivenTarget[Any], data: TrainingData) -> None:
    """See that its weights are numbers, that it takes batches of any size, and says the same twice.

    It is shown training images, or noise where there are too few.

    Raises:
        PluginError: It does not, or its scores do not fit the data set; names what it was made from.
    """
    if (wrong := not_finite(model)) is not None:
        raise PluginError(f"{model.origin}: weights {wrong} are not finite")
    enough = len(data.train) >= _TRIED
    images = data.take(torch.arange(_TRIED))[0] if enough else _noise(data.image_shape).to(data.device)
    shape = "×".join(map(str, data.image_shape))
    with torch.no_grad():
        try:
            scores, again, one = model(images), model(images), model(images[:1])
        except Exception as error:  # whatever a stranger's classifier raises
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise PluginError(f"{model.origin} cannot take batches of {shape} images: {cause}") from error
    if not all(isinstance(made, Tensor) for made in (scores, one)):
        raise PluginError(f"{model.origin} returns {type(scores).__name__}, not a tensor of scores")
    if tuple(scores.shape) != (len(images), data.num_classes) or len(one) != 1:
        raise PluginError(
            f"{model.origin} gives scores of shape {tuple(scores.shape)} for {len(images)} images, "
            f"but the data set has {data.num_classes} classes"
        )
    if scores.dtype != torch.float32:
        raise PluginError(f"{model.origin} gives scores of {scores.dtype}, not of torch.float32")
    if not torch.isfinite(scores).all():
        raise PluginError(f"{model.origin} gives scores that are not finite")
    size = min(1.0, float(scores.abs().max()))  # small scores differ by little, whatever they depend on
    if not torch.allclose(scores, again, rtol=1e-4, atol=1e-4 * size):
        raise PluginError(f"{model.origin} gives other scores for the same images each time it is asked")
    if not torch.allclose(scores[:1], one, rtol=1e-3, atol=1e-3 * size):
        raise PluginError(
            f"{model.origin} gives scores that depend on the other images of the batch: saved in training?"
        )


def answers(model: GivenTarget[Any], device: torch.device) -> Tensor:
    """Its scores for some noise, by which it is known again: weights may hide where no state dict tells."""
    with torch.no_grad():
        return model(_noise(model.image_shape).to(device)).cpu()  # type: ignore[no-any-return]


def are_the_same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two sets of answers are of one classifier."""
    return bool((ours - theirs).abs().max() <= _MOVED * theirs.abs().max())


def _noise(image_shape: tuple[int, int, int]) -> Tensor:
    return torch.rand((_TRIED, *image_shape), generator=torch.Generator().manual_seed(0))
