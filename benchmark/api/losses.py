"""The margin of logits, and the loss gradient that our own attacks use."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api.attack import Surface


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of the other classes minus that of the label, shape (B,); positive if misclassified."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(dim=1) - own


def unit(gradient: Tensor) -> Tensor:
    """The gradient of each image divided by its largest absolute value; a zero gradient stays zero.

    Without this, norms and products of gradients overflow or underflow long before the gradients do.
    """
    largest = gradient.flatten(1).abs().amax(dim=1)[:, None, None, None]
    return gradient / torch.where(largest > 0, largest, 1.0)


def loss_gradient(surface: Surface, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the cross-entropy at `x`, up to a positive factor for each image, and the logits.

    The gradient of the cross-entropy with respect to the logits is (1 − p_y)·(q − e_y), where q is the
    softmax over the other classes. Without the first factor the direction is the same and does not
    underflow, so that a confident classifier does not appear to have no gradient.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = surface(x)
    direction = logits.detach().scatter(1, labels[:, None], float("-inf")).softmax(dim=1)
    direction.scatter_(1, labels[:, None], -1.0)
    (gradient,) = torch.autograd.grad(logits, x, grad_outputs=direction)
    return gradient, logits.detach()
