"""The gradient that the native attacks follow."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.contract import Surface


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How wrong the scores are, shape (B,): best other class minus true class; positive when fooled."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(dim=1) - own


def unit(gradient: Tensor) -> Tensor:
    """Each image's gradient over its largest absolute value; what is zero stays so.

    Lengths and products of a gradient overflow or vanish long before the gradient itself does.
    """
    largest = gradient.flatten(1).abs().amax(dim=1)[:, None, None, None]
    return gradient / torch.where(largest > 0, largest, 1.0)


def loss_gradient(surface: Surface, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the cross-entropy at `x`, each image's scaled by a positive number, and the logits.

    The cross-entropy's gradient with respect to the logits is (1 − p_y)·(q − e_y), with q the softmax
    over the other classes. Dropping the factor keeps the direction and never underflows, so a
    confident classifier does not read as one without a gradient.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = surface(x)
    direction = logits.detach().scatter(1, labels[:, None], float("-inf")).softmax(dim=1)
    direction.scatter_(1, labels[:, None], -1.0)
    (gradient,) = torch.autograd.grad(logits, x, grad_outputs=direction)
    return gradient, logits.detach()
