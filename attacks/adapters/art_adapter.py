"""Runs attacks of the Adversarial Robustness Toolbox (ART) on a surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from benchmark.attacks.steps.goal import Goal
from torch import Tensor, nn

from benchmark.api import Surface, choose


def run_art(
    name: str,
    options: Mapping[str, Any],
    surface: Surface,
    x: Tensor,
    goal: Goal,
    eps: float | None = None,
) -> Tensor:
    """Run an ART attack and return its images.

    Args:
        name: The class in `art.attacks.evasion`.
        options: Its arguments besides the classifier. `batch_size` defaults to all images. `targeted` has
            to agree with `goal`, because ART does not see the goal itself.
        surface: The module to attack; ART wraps it unchanged.
        x: Clean images (B, C, H, W) in [0, 1].
        goal: ART gets its target classes, or its true labels if it has no target.
        eps: Radius of the ball. For 0 the result is `x`, because ART refuses an empty ball. None for
            attacks that minimise a norm: they get only the images that do not reach the goal yet (ART's
            DeepFool moves away from the predicted class, right or wrong), and failures stay clean.
    """
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    if eps == 0:
        return x.clone()
    classifier = PyTorchClassifier(
        model=surface.eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=surface.image_shape,
        nb_classes=surface.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    art_attack = getattr(evasion, name)(classifier, **{"batch_size": len(x), **options})
    if eps is not None:
        return _generate(art_attack, x, goal)
    result = x.clone()
    with torch.no_grad():
        remaining = goal.margin(surface(x)) <= 0
    if remaining.any():
        remaining_goal = goal.take(remaining)
        images = _generate(art_attack, x[remaining], remaining_goal)
        with torch.no_grad():
            reached = remaining_goal.margin(surface(images)) > 0
        result[remaining] = choose(reached, images, x[remaining])
    return result


def _generate(art_attack: Any, x: Tensor, goal: Goal) -> Tensor:
    classes = goal.labels if goal.target is None else goal.target
    images = art_attack.generate(x=x.cpu().numpy(), y=classes.cpu().numpy())
    return torch.from_numpy(images).to(device=x.device, dtype=x.dtype)
