"""Judges: the rules by which the predictions of several draws of a random pipeline count.

To add a judge, write its rule here, and allow its name in `ThreatConfig` (`benchmark/plan/threats/base.py`),
which also says how many draws it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Verdict = tuple[Tensor, Tensor]
"""The class of each image (B,), and how wrong it is (B,): 0 or 1, or a mean over draws."""


def judge(name: str, predictions: list[Tensor], labels: Tensor) -> Verdict:
    """Apply the judge of that name, such as `one` or `mean-10`.

    Args:
        name: The judge, and after a hyphen the number of draws.
        predictions: The predicted classes (B,) of each draw.
        labels: True classes (B,).

    Raises:
        KeyError: There is no such judge.
    """
    return JUDGES[name.partition("-")[0]](torch.stack(predictions), labels)


def _one(classes: Tensor, labels: Tensor) -> Verdict:
    return _of_classes(classes[0], labels)


def _mean(classes: Tensor, labels: Tensor) -> Verdict:
    return classes[0], (classes != labels).float().mean(dim=0)


def _worst(classes: Tensor, labels: Tensor) -> Verdict:
    first_wrong = (classes != labels).float().argmax(dim=0)  # or the first draw, if none is wrong
    return _of_classes(classes.gather(0, first_wrong[None])[0], labels)


def _majority(classes: Tensor, labels: Tensor) -> Verdict:
    return _of_classes(classes.mode(dim=0).values, labels)


def _of_classes(judged: Tensor, labels: Tensor) -> Verdict:
    return judged, (judged != labels).float()


JUDGES: Mapping[str, Callable[[Tensor, Tensor], Verdict]] = {
    "one": _one,
    "mean": _mean,
    "worst": _worst,
    "majority": _majority,
}
