"""What the trainings of several defenses share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.adversarial import perturbed
from benchmark.datasets.contract import TrainingData
from benchmark.training import Loop

Purify = Callable[[Tensor], Tensor]


def attacked(attack: str, source: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """FGSM, or ten projected steps of a quarter of `eps` from the image."""
    return perturbed(source, images, labels, eps=eps, steps=1 if attack == "fgsm" else 10)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimizer down the gradient of the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def check_small(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError for images that are neither 28×28 nor 32×32."""
    _, height, width = image_shape
    if (height, width) not in ((28, 28), (32, 32)):
        raise ValueError(f"{name} takes 28×28 or 32×32 images, got {height}×{width}")


@dataclass(frozen=True)
class Goal:
    """Ends a training once the purifier is good enough on the first validation images.

    That is, once it adds no more than `clean` to the source classifier's error on clean images and leaves no
    more than `fgsm` on FGSM images of 0.3. Clean error alone says little: what gives every image back adds
    none, and a generator that has hardly begun can make any image, perturbations included.
    """

    clean: float
    fgsm: float
    images: int

    def look(
        self, loop: Loop, plugin: nn.Module, purify: Purify, data: TrainingData, source: nn.Module
    ) -> None:
        """Measure, report, and stop the loop where both are reached."""
        plugin.eval()
        added, left = progress(purify, data, source, self.images)
        plugin.train()
        loop.report(added_error=added, fgsm_error=left)
        if added <= self.clean and left <= self.fgsm:
            loop.stop()


def progress(
    purify: Purify, data: TrainingData, source: nn.Module, images: int, eps: float = 0.3
) -> tuple[float, float]:
    """What purifying adds to the source's error on clean images, and its error on purified FGSM images."""
    clean, labels = next(data.validation_batches(images))
    adversarial = attacked("fgsm", source, clean, labels, eps)
    with torch.no_grad():
        before, after, fgsm = (
            (source(x).argmax(dim=1) != labels).float().mean()
            for x in (clean, purify(clean), purify(adversarial))
        )
    return float(after - before), float(fgsm)
