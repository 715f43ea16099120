"""The gradient that the native attacks follow, and the ascent along its sign."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.contract import Surface


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How wrong the scores are, shape (B,): best other class minus true class; positive when fooled."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(dim=1) - own


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


def sign_ascent(
    surface: Surface, x: Tensor, labels: Tensor, start: Tensor, *, eps: float, alpha: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Steps of `alpha` along the gradient's sign inside the L∞ ball of `eps` around `x` and the box.

    Returns:
        For each image the iterate that the surface scores as most wrong, and its margin, shape (B,).
    """
    low, high = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)
    current, best, best_margin = start, start, torch.full((len(x),), float("-inf"), device=x.device)
    for step in range(steps + 1):
        if step < steps:
            gradient, logits = loss_gradient(surface, current, labels)
        else:
            with torch.no_grad():
                logits = surface(current)
        margins = margin(logits, labels)
        better = margins >= best_margin
        best_margin = torch.where(better, margins, best_margin)
        best = torch.where(better[:, None, None, None], current, best)
        if step < steps:
            current = torch.clamp(current + alpha * gradient.sign(), low, high)
    return best, best_margin
