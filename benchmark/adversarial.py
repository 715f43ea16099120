"""Adversarial images to train with: for purifiers, and for classifiers that are to withstand them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def perturbed(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 1,
    start: Tensor | None = None,
) -> Tensor:
    """Images within `eps` (L∞) of the given ones, and in [0, 1], that raise the cross-entropy.

    One step is as long as `eps` (the fast gradient sign method); of several, each is as long as
    2.5 · `eps` / `steps`, and what leaves the ball is put back (projected gradient descent).

    Args:
        classifier: Images to logits; its mode is left as it is.
        images: Clean images (B, C, H, W).
        labels: True labels (B,).
        eps: On the [0, 1] scale.
        steps: How many.
        start: Where to begin instead of the clean images; put into ball and box first.
    """
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    size = eps if steps == 1 else 2.5 * eps / steps
    current = images.detach() if start is None else torch.clamp(start.detach(), low, high)
    for _ in range(steps):
        current = current.detach().requires_grad_()
        loss = F.cross_entropy(classifier(current), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, current)
        current = torch.clamp(current.detach() + size * gradient.sign(), low, high)
    return current


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Let passes through a module in training leave no trace in it, and draw nothing.

    Batch normalisation goes on with the statistics of the batch, as the step of the training will (the
    running averages say little at the beginning), but keeps its averages to clean steps: they must not follow
    images that are not learned from. Dropout is off. Everything is put back afterwards.
    """
    normalising = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    dropping = [m for m in module.modules() if isinstance(m, _DropoutNd) and m.training]
    for norm in normalising:
        norm.track_running_stats = False
    for drop in dropping:
        drop.training = False
    try:
        yield
    finally:
        for norm in normalising:
            norm.track_running_stats = True
        for drop in dropping:
            drop.training = True
