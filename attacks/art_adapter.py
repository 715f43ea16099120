"""The Adversarial Robustness Toolbox (ART) behind the attack contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attacks.contract import Surface


def run_art(make: Callable[[Any], Any], surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
    """Images of an ART attack, untargeted.

    Args:
        make: Builds the ART attack on the ART classifier that it is given; sets its own batch size.
        surface: The module to attack, wrapped by ART as it is.
        x: Clean images in [0, 1].
        labels: True labels.
    """
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=surface.eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=surface.image_shape,
        nb_classes=surface.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    images = make(classifier).generate(x=x.cpu().numpy(), y=labels.cpu().numpy())
    return torch.from_numpy(images).to(device=x.device, dtype=x.dtype)
