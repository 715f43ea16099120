"""Jacobian-based saliency map attack (JSMA): native and through ART.

Papernot et al. 2016, "The Limitations of Deep Learning in Adversarial Settings", algorithm 3.
As there, α is the sum of the target's derivatives over a pair of features, and β that of the other classes.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.backends import MultiBackendAttack, TargetedBackendConfig
from benchmark.attacks.steps.goal import Goal
from pydantic import field_validator
from torch import Tensor

from benchmark.api import Noise, Surface, attack, loss_gradient, param, per_image, unit

_MAX_TABLE_SIZE = 2**25  # entries of a table of pairs that is held in memory at once
_PRESELECTED = 32  # features whose pairs give the first lower bound of the best saliency


class JsmaConfig(TargetedBackendConfig):
    """`theta` (θ): change of a feature per step; `gamma` (Υ): the largest share of pixels that may change.

    `scores`: the outputs whose derivatives give the saliency; the paper allows any output of the network.
    Probabilities add up to one, so that an increase of one class is a decrease of the others. With `logits`
    also very improbable classes have an influence.
    """

    unsupported_options: ClassVar = {"art": frozenset({"scores"})}

    theta: float = param(1.0, ge=-1, le=1)
    gamma: float = param(0.145, gt=0, le=1)
    scores: Literal["probabilities", "logits"] = "probabilities"
    backend: Literal["native", "art"] = "native"

    @field_validator("theta")
    @classmethod
    def _refuse_zero(cls, theta: float) -> float:
        if theta == 0:
            raise ValueError("a theta of 0 changes nothing")
        return theta


@attack("jsma")
class Jsma(MultiBackendAttack[JsmaConfig]):
    """Changes the pair of features with the highest saliency for the target class at each step.

    A feature is one value of one pixel. Without a target class the wrong class with the highest logit on the
    clean image is used. ART takes the two features with the highest individual saliency instead.
    """

    norm = "l0"
    weak_backends = frozenset({"art"})

    def _target(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        if goal.target is not None:
            return goal.target
        with torch.no_grad():
            logits: Tensor = surface(x)
        return logits.scatter(1, goal.labels[:, None], float("-inf")).argmax(dim=1)

    def _max_pixels(self, x: Tensor) -> int:
        """The number of pixels that may change.

        Raises:
            ValueError: It is below two, the number that changes at a time.
        """
        max_pixels = int(self.config.gamma * x[0, 0].numel())
        if max_pixels < 2:
            raise ValueError(
                f"gamma {self.config.gamma:g} allows {max_pixels} pixels, and two change at a time"
            )
        return max_pixels

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        result, index, current = x.clone(), torch.arange(len(x), device=x.device), x
        target, max_pixels = self._target(surface, x, goal), self._max_pixels(x)
        steps_per_feature = math.ceil(1 / abs(self.config.theta))  # from 0 to 1, or from 1 to 0
        for _ in range(max_pixels * x.shape[1] * steps_per_feature + 1):
            target_gradient, other_gradient, logits = self._jacobian(surface, current, target[index])
            reached = goal.take(index).margin(logits) > 0
            result[index[reached]] = current[reached]
            free = self._free_features(current, x[index], max_pixels)
            sign = 1 if self.config.theta > 0 else -1
            first, second, saliency = best_pair(sign * target_gradient, sign * other_gradient, free)
            continuing = ~reached & (saliency > 0)
            if not continuing.any():
                break
            rows = torch.arange(len(index), device=x.device)
            step = torch.zeros_like(current).flatten(1)
            step[rows, first] = step[rows, second] = self.config.theta
            changed = (current + step.view_as(current)).clamp_(0, 1)
            index, current = index[continuing], changed[continuing]
        return result

    def _free_features(self, current: Tensor, clean: Tensor, max_pixels: int) -> Tensor:
        """The features (B, features) that a step can change without changing more than `max_pixels`."""
        in_range = (current < 1) if self.config.theta > 0 else (current > 0)
        changed = (current != clean).any(dim=1, keepdim=True)
        exhausted = changed.flatten(1).sum(dim=1) > max_pixels - 2
        return (in_range & (changed | ~per_image(exhausted))).flatten(1)

    def _jacobian(self, surface: Surface, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients (B, features) of the target's output and of the sum of the others, and the logits."""
        if self.config.scores == "probabilities":
            gradient, logits = loss_gradient(surface, x, target)
            # the gradient of the log odds is that of the probability, up to a factor that could underflow
            gradient = unit(gradient).flatten(1)
            return -gradient, gradient, logits
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = surface(x)
        one_hot = torch.zeros_like(logits).scatter_(1, target[:, None], 1.0)
        (target_gradient,) = torch.autograd.grad(logits, x, grad_outputs=one_hot, retain_graph=True)
        (other_gradient,) = torch.autograd.grad(logits, x, grad_outputs=1 - one_hot)
        return unit(target_gradient).flatten(1), unit(other_gradient).flatten(1), logits.detach()

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        # ART counts features instead of pixels, and checks the count before it changes two more
        gamma = (self._max_pixels(x) - 2) / x[0].numel()
        options = {"theta": self.config.theta, "gamma": gamma, "verbose": False}
        targeted = Goal(goal.labels, self._target(surface, x, goal))
        return run_art("SaliencyMapMethod", options, surface, x, targeted)


def best_pair(target_gradient: Tensor, other_gradient: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pair (p, q) of free features with the highest saliency −α · β, as in algorithm 3.

    α is `target_gradient` at p plus that at q and has to be positive. β is the same for `other_gradient` and
    has to be negative. Not all pairs are compared. The saliency of any pair with p is bounded by that of p
    with a partner that has the largest target gradient and the lowest other gradient of all features, so that
    features with too low a bound are left out.

    Args:
        target_gradient: Derivatives of the target's output, shape (B, features).
        other_gradient: Derivatives of the sum of the other outputs, shape (B, features).
        free: Mask of the features that may change, shape (B, features).

    Returns:
        Indices p and q, and the saliency, 0 if there is no such pair; each of shape (B,).
    """
    lowest = torch.finfo(target_gradient.dtype).min / 4
    increase = target_gradient.masked_fill(~free, lowest)
    decrease = (-other_gradient).masked_fill(~free, lowest)
    bound = _saliency(
        increase + increase.amax(dim=1, keepdim=True), decrease + decrease.amax(dim=1, keepdim=True)
    )
    order = bound.argsort(dim=1, descending=True)
    *_, saliency = _best_pair_among(increase, decrease, order[:, :_PRESELECTED])
    count = int((bound > saliency[:, None]).sum(dim=1).max().clamp_min(2))
    return _best_pair_among(increase, decrease, order[:, :count])


def _best_pair_among(increase: Tensor, decrease: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best pair among some features (B, count) of each image, computed for a few images at a time."""
    count = features.shape[1]
    increase, decrease = increase.gather(1, features), decrease.gather(1, features)
    diagonal = torch.eye(count, dtype=torch.bool, device=features.device)
    pairs, saliencies = [], []
    chunk = max(1, _MAX_TABLE_SIZE // count**2)
    for start in range(0, len(features), chunk):
        a, b = increase[start : start + chunk], decrease[start : start + chunk]
        table = _saliency(a[:, :, None] + a[:, None, :], b[:, :, None] + b[:, None, :])
        saliency, pair = table.masked_fill_(diagonal, 0).flatten(1).max(dim=1)
        pairs.append(pair)
        saliencies.append(saliency)
    pair = torch.cat(pairs)[:, None]
    first, second = features.gather(1, pair // count), features.gather(1, pair % count)
    return first.squeeze(1), second.squeeze(1), torch.cat(saliencies)


def _saliency(increase: Tensor, decrease: Tensor) -> Tensor:
    return increase.clamp_min(0) * decrease.clamp_min(0)
