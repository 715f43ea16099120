"""Adversarial examples for training purifiers and robust classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def perturb(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 1,
    start: Tensor | None = None,
) -> Tensor:
    """Images in [0, 1] and within `eps` (L∞) of the clean ones that increase the cross-entropy.

    With one step, the step size is `eps` (the fast gradient sign method). With several, it is
    2.5 · `eps` / `steps`, with a projection after each (projected gradient descent).

    Args:
        classifier: Images to logits; its mode does not change.
        images: Clean images (B, C, H, W).
        labels: True labels (B,).
        eps: Radius on the [0, 1] scale.
        steps: Number of gradient steps.
        start: Starting points instead of the clean images; projected into ball and box first.
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
def frozen_batchnorm(module: nn.Module) -> Iterator[None]:
    """A context in which forward passes of a module in training mode change no state and draw no numbers.

    Batch normalisation uses the statistics of the batch, as the training step will, because the running
    averages mean little at the beginning. It does not update the averages, which must not depend on images
    that the module is not trained on. Dropout is off. Everything is restored afterwards.
    """
    switches = ((_BatchNorm, "track_running_stats"), (_DropoutNd, "training"))
    on = [(m, name) for kind, name in switches for m in module.modules() if isinstance(m, kind)]
    on = [(m, name) for m, name in on if getattr(m, name)]
    for switched, name in on:
        setattr(switched, name, False)
    try:
        yield
    finally:
        for switched, name in on:
            setattr(switched, name, True)
