"""Runs attacks of Foolbox on a surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Surface, per_image


def run_foolbox(
    name: str,
    options: Mapping[str, Any],
    surface: Surface,
    x: Tensor,
    goal: Goal,
    eps: float | None = None,
    **call_options: Any,
) -> Tensor:
    """Run a Foolbox attack on all images in one batch and return its images.

    Args:
        name: The class in `foolbox.attacks`.
        options: Its arguments.
        surface: The module to attack; Foolbox calls it unchanged.
        x: Clean images (B, C, H, W) in [0, 1].
        goal: The goal of the attack.
        eps: Radius of the ball, or None for attacks that minimise the norm. If such an attack fails, Foolbox
            returns a black image; this function returns the clean one.
        call_options: Further arguments of the call of the attack.
    """
    from foolbox import PyTorchModel, attacks
    from foolbox.criteria import Misclassification, TargetedMisclassification

    model = PyTorchModel(surface.eval(), bounds=(0, 1), device=x.device)
    criterion = (
        Misclassification(goal.labels) if goal.target is None else TargetedMisclassification(goal.target)
    )
    foolbox_attack = getattr(attacks, name)(**options)
    _, clipped, reached = foolbox_attack(model, x, criterion, epsilons=eps, **call_options)
    images: Tensor = clipped.detach()
    return images if eps is not None else torch.where(per_image(reached), images, x)
