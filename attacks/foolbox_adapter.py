"""Foolbox behind the attack contract."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attacks.contract import Surface


def run_foolbox(
    library_attack: Any, surface: Surface, x: Tensor, labels: Tensor, eps: float | None
) -> Tensor:
    """Images of a Foolbox attack, untargeted, all in one batch.

    Args:
        library_attack: A configured `foolbox.attacks` object.
        surface: The module to attack; Foolbox calls it as it is.
        x: Clean images in [0, 1].
        labels: True labels.
        eps: Radius of the ball, or None for attacks that minimise the norm.
    """
    from foolbox import PyTorchModel

    model = PyTorchModel(surface.eval(), bounds=(0, 1), device=x.device)
    _, clipped, _ = library_attack(model, x, labels, epsilons=eps)
    return clipped.detach()  # type: ignore[no-any-return]
