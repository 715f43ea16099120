"""Pretrained classifiers of the user: checking that one is usable, and recognising it in a later run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.api.dataset import TrainingData
from benchmark.api.target import PretrainedTarget
from benchmark.api.training import not_finite
from benchmark.errors import PluginError

_IMAGES = 3

_LOGIT_TOLERANCE = 0.01
"""Largest change of a logit by another device or number of threads, relative to the largest logit."""


def check_pretrained(model: PretrainedTarget[Any], data: TrainingData) -> None:
    """Check that the weights are finite, that batches of any size work, and that outputs repeat.

    The check uses training images, or noise if there are too few of them.
    """
    if (wrong := not_finite(model)) is not None:
        raise PluginError(f"{model.origin}: weights {wrong} are not finite")
    enough = len(data.train) >= _IMAGES
    images = data.take(torch.arange(_IMAGES))[0] if enough else _noise(data.image_shape).to(data.device)
    shape = "×".join(map(str, data.image_shape))
    with torch.no_grad():
        try:
            scores, repeated, single = model(images), model(images), model(images[:1])
        except Exception as error:  # foreign code may raise anything
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise PluginError(f"{model.origin} cannot take batches of {shape} images: {cause}") from error
    if not all(isinstance(output, Tensor) for output in (scores, single)):
        raise PluginError(f"{model.origin} returns {type(scores).__name__}, not a tensor of scores")
    if tuple(scores.shape) != (len(images), data.num_classes) or len(single) != 1:
        found = f"scores of shape {tuple(scores.shape)} for {len(images)} images"
        raise PluginError(f"{model.origin} returns {found}, but the data set has {data.num_classes} classes")
    if scores.dtype != torch.float32:
        raise PluginError(f"{model.origin} returns scores of {scores.dtype}, not of torch.float32")
    if not torch.isfinite(scores).all():
        raise PluginError(f"{model.origin} returns scores that are not finite")
    size = min(1.0, float(scores.abs().max()))  # small scores differ by little, whatever they depend on
    if not torch.allclose(scores, repeated, rtol=1e-4, atol=1e-4 * size):
        raise PluginError(f"{model.origin} returns other scores for the same images at each call")
    if not torch.allclose(scores[:1], single, rtol=1e-3, atol=1e-3 * size):
        found = "scores that depend on the other images of the batch: was it saved in training mode?"
        raise PluginError(f"{model.origin} returns {found}")


def reference_logits(model: PretrainedTarget[Any], device: torch.device) -> Tensor:
    """The logits for fixed noise; they also reveal changed weights that are in no state dict."""
    with torch.no_grad():
        return model(_noise(model.image_shape).to(device)).cpu()  # type: ignore[no-any-return]


def same_logits(logits: Tensor, reference: Tensor) -> bool:
    """Whether two tensors of reference logits belong to the same classifier."""
    return bool((logits - reference).abs().max() <= _LOGIT_TOLERANCE * reference.abs().max())


def _noise(image_shape: tuple[int, int, int]) -> Tensor:
    return torch.rand((_IMAGES, *image_shape), generator=torch.Generator().manual_seed(0))
