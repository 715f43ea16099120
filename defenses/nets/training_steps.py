"""Training steps that several defenses share: adversarial batches, updates, early stopping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.api import Loop, TrainingData, perturb

Purify = Callable[[Tensor], Tensor]


def adversarial_batch(attack: str, source: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """FGSM images, or images of ten projected gradient steps of size `eps / 4` from the clean image."""
    return perturb(source, images, labels, eps=eps, steps=1 if attack == "fgsm" else 10)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of the optimizer on the gradient of the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@dataclass(frozen=True)
class StopCriterion:
    """Ends a training when the purifier is good enough on the first `images` validation images.

    It is good enough if it adds at most `clean` to the source classifier's error on clean images, and if the
    error on purified FGSM images (eps 0.3) is at most `fgsm`. The clean error alone is not sufficient: a
    purifier that returns its input adds none, and a generator after a few steps can produce any image,
    perturbations included.
    """

    clean: float
    fgsm: float
    images: int

    def check(
        self, loop: Loop, plugin: nn.Module, purify: Purify, data: TrainingData, source: nn.Module
    ) -> None:
        """Measure and report both errors, and stop the loop if they are low enough."""
        plugin.eval()
        clean, labels = next(data.validation_batches(self.images))
        adversarial = adversarial_batch("fgsm", source, clean, labels, eps=0.3)
        with torch.no_grad():
            before, after, fgsm_error = (
                (source(x).argmax(dim=1) != labels).float().mean()
                for x in (clean, purify(clean), purify(adversarial))
            )
        plugin.train()
        added_error = float(after - before)
        loop.report(added_error=added_error, fgsm_error=fgsm_error)
        if added_error <= self.clean and float(fgsm_error) <= self.fgsm:
            loop.stop()
