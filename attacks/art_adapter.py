"""The Adversarial Robustness Toolbox (ART) behind the attack contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attacks.ball import choose
from attacks.contract import Surface
from attacks.goal import Goal


def run_art(
    make: Callable[[Any], Any], surface: Surface, x: Tensor, goal: Goal, eps: float | None = None
) -> Tensor:
    """Images of an ART attack.

    Args:
        make: Builds the ART attack on the ART classifier that it is given; sets its own batch size, and
            is told of no goal: `targeted` has to go with it.
        surface: The module to attack, wrapped by ART as it is.
        x: Clean images in [0, 1].
        goal: Its target, or else its labels, are what ART is given.
        eps: Radius of the ball where there is one; ART refuses an empty one, in which only `x` is. None for
            attacks that minimise a norm: they are given what does not reach the goal yet (ART's DeepFool
            walks away from the class predicted, be it wrong or right), and what fails is left clean.
    """
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
    if eps is not None:
        return _generate(make(classifier), x, goal)
    found = x.clone()
    with torch.no_grad():
        left = goal.margin(surface(x)) <= 0
    if left.any():
        images = _generate(make(classifier), x[left], goal.take(left))
        with torch.no_grad():
            reached = goal.take(left).margin(surface(images)) > 0
        found[left] = choose(reached, images, x[left])
    return found


def _generate(art_attack: Any, x: Tensor, goal: Goal) -> Tensor:
    aim = goal.labels if goal.target is None else goal.target
    images = art_attack.generate(x=x.cpu().numpy(), y=aim.cpu().numpy())
    return torch.from_numpy(images).to(device=x.device, dtype=x.dtype)
