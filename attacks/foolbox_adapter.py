"""Foolbox behind the attack contract."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attacks.ball import per_image
from attacks.contract import Surface
from attacks.goal import Goal


def run_foolbox(
    library_attack: Any, surface: Surface, x: Tensor, goal: Goal, eps: float | None, **more: Any
) -> Tensor:
    """Images of a Foolbox attack, all in one batch.

    Args:
        library_attack: A configured `foolbox.attacks` object.
        surface: The module to attack; Foolbox calls it as it is.
        x: Clean images in [0, 1].
        goal: What to reach.
        eps: Radius of the ball, or None for attacks that minimise the norm. Of these Foolbox returns a black
            image where they fail; here it is the clean one.
        more: What else the attack is given when it is run.
    """
    from foolbox import PyTorchModel
    from foolbox.criteria import Misclassification, TargetedMisclassification

    model = PyTorchModel(surface.eval(), bounds=(0, 1), device=x.device)
    criterion = (
        Misclassification(goal.labels) if goal.target is None else TargetedMisclassification(goal.target)
    )
    _, clipped, reached = library_attack(model, x, criterion, epsilons=eps, **more)
    images: Tensor = clipped.detach()
    return images if eps is not None else torch.where(per_image(reached), images, x)
