"""What the trainings of several defenses share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData


def attacked(attack: str, source: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """FGSM, or ten projected steps of a quarter of `eps` from the image."""
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    steps, size = (1, eps) if attack == "fgsm" else (10, eps / 4)
    current = images.detach()
    for _ in range(steps):
        current = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(source(current), labels, reduction="sum"), current)
        current = torch.clamp(current.detach() + size * gradient.sign(), low, high)
    return current


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimizer down the gradient of the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def progress(
    purify: Callable[[Tensor], Tensor], data: TrainingData, source: nn.Module, images: int, eps: float = 0.3
) -> tuple[float, float]:
    """How far a purifier has come, on the first validation images and with the source classifier.

    Returns:
        What purifying adds to the source's error on clean images, and the source's error on purified FGSM
        images. Clean error alone says little: what gives every image back adds none.
    """
    clean, labels = next(data.validation_batches(images))
    adversarial = attacked("fgsm", source, clean, labels, eps)
    with torch.no_grad():
        before, after, fgsm = (
            (source(x).argmax(dim=1) != labels).float().mean()
            for x in (clean, purify(clean), purify(adversarial))
        )
    return float(after - before), float(fgsm)
