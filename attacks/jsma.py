"""Jacobian-based saliency map attack (Papernot et al. 2016, "The Limitations of Deep Learning in Adversarial
Settings", algorithms 1 to 3): native and through ART."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Tensor

from attacks.backends import Backed, BackedConfig
from attacks.ball import per_image
from attacks.contract import Surface, attack
from attacks.goal import Goal
from attacks.gradients import loss_gradient, unit
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

_LARGEST_TABLE = 2**25
_FIRST_LOOK = 32


class JsmaConfig(BackedConfig):
    """`theta`: what is added to a value at each step; `gamma`: the largest share of pixels changed.

    `scores`: what the saliency is of. The paper defines it for any output of the network. The
    probabilities add up to one, so that one class's gain is the others' loss; `logits` lets classes count
    that are out of the question.
    """

    lacks: ClassVar = {"art": frozenset({"scores"})}

    theta: float = param(1.0, ge=-1, le=1)
    gamma: float = param(0.145, gt=0, le=1)
    scores: Literal["probabilities", "logits"] = "probabilities"
    backend: Literal["native", "art"] = "native"

    @field_validator("theta")
    @classmethod
    def _some_step(cls, theta: float) -> float:
        if theta == 0:
            raise ValueError("a theta of 0 changes nothing")
        return theta


@attack("jsma")
class Jsma(Backed[JsmaConfig]):
    """Changes two values at a time, the pair of all pairs that serves the target class best.

    Without a target the aim is the wrong class that scores best on the clean image. ART takes the two values
    that are best each by itself.
    """

    weak_backends = frozenset({"art"})

    @property
    def norm(self) -> Norm:
        return "l0"

    def _target(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        if goal.target is not None:
            return goal.target
        with torch.no_grad():
            scores: Tensor = surface(x)
        return scores.scatter(1, goal.labels[:, None], float("-inf")).argmax(dim=1)

    def _most(self, x: Tensor) -> int:
        """How many pixels may change.

        Raises:
            ValueError: Fewer than the two that change at a time.
        """
        most = int(self.config.gamma * x[0, 0].numel())
        if most < 2:
            raise ValueError(f"gamma {self.config.gamma:g} allows {most} pixels, and two change at a time")
        return most

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        found, index, current = x.clone(), torch.arange(len(x), device=x.device), x
        target, most = self._target(surface, x, goal), self._most(x)
        each = math.ceil(1 / abs(self.config.theta))  # steps that take a value from one end to the other
        for _ in range(most * x.shape[1] * each + 1):
            toward, away, logits = self._jacobian(surface, current, target[index])
            reached = goal.take(index).margin(logits) > 0
            found[index[reached]] = current[reached]
            first, second, gain = self._pair(toward, away, current, x[index], most)
            going = ~reached & (gain > 0)
            if not going.any():
                break
            rows = torch.arange(len(index), device=x.device)
            step = torch.zeros_like(current).flatten(1)
            step[rows, first] = step[rows, second] = self.config.theta
            moved = (current + step.view_as(current)).clamp_(0, 1)
            index, current = index[going], moved[going]
        return found

    def _pair(
        self, toward: Tensor, away: Tensor, current: Tensor, clean: Tensor, most: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best pair of values that can still go, without changing more than `most` pixels."""
        room = (current < 1) if self.config.theta > 0 else (current > 0)
        changed = (current != clean).any(dim=1, keepdim=True)
        full = changed.flatten(1).sum(dim=1) > most - 2
        free = room & (changed | ~per_image(full))
        if self.config.theta < 0:
            toward, away = -toward, -away
        return best_pair(toward, away, free.flatten(1))

    def _jacobian(self, surface: Surface, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the target's score and of the others' sum, each (B, values), and the logits."""
        if self.config.scores == "probabilities":
            away, logits = loss_gradient(surface, x, target)
            # of the log odds: those of the probability, times a number that cannot underflow
            away = unit(away).flatten(1)
            return -away, away, logits
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = surface(x)
        one = torch.zeros_like(logits).scatter_(1, target[:, None], 1.0)
        (toward,) = torch.autograd.grad(logits, x, grad_outputs=one, retain_graph=True)
        (away,) = torch.autograd.grad(logits, x, grad_outputs=1 - one)
        return unit(toward).flatten(1), unit(away).flatten(1), logits.detach()

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import SaliencyMapMethod

        from attacks.art_adapter import run_art

        # ART counts values, and looks at the count before it changes two more
        share = (self._most(x) - 2) / x[0].numel()
        return run_art(
            lambda classifier: SaliencyMapMethod(
                classifier, theta=self.config.theta, gamma=share, batch_size=len(x), verbose=False
            ),
            surface,
            x,
            Goal(goal.labels, self._target(surface, x, goal)),
        )


def best_pair(toward: Tensor, away: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pair (p, q) of free values of largest saliency −(toward_p + toward_q) · (away_p + away_q).

    Both sums have to have the right sign, the first above and the second below zero. Only values are paired
    of which one could be in the best pair: no pair with p is better than that of p with a partner that has
    the largest `toward` and the lowest `away` of all.

    Returns:
        Indices p and q, and the saliency, 0 where there is no such pair; each of shape (B,).
    """
    away = -away
    lowest = torch.finfo(toward.dtype).min / 4
    toward, away = toward.masked_fill(~free, lowest), away.masked_fill(~free, lowest)
    bound = _saliency(toward + toward.amax(dim=1, keepdim=True), away + away.amax(dim=1, keepdim=True))
    order = bound.argsort(dim=1, descending=True)
    *_, reached = _search(toward, away, order[:, :_FIRST_LOOK])
    wanted = int((bound > reached[:, None]).sum(dim=1).max().clamp_min(2))
    return _search(toward, away, order[:, :wanted])


def _search(toward: Tensor, away: Tensor, among: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best pair among some values of each image, a few images at a time."""
    count = among.shape[1]
    toward, away = toward.gather(1, among), away.gather(1, among)
    itself = torch.eye(count, dtype=torch.bool, device=among.device)
    pairs, gains = [], []
    few = max(1, _LARGEST_TABLE // count**2)
    for start in range(0, len(among), few):
        a, b = toward[start : start + few], away[start : start + few]
        table = _saliency(a[:, :, None] + a[:, None, :], b[:, :, None] + b[:, None, :])
        gain, pair = table.masked_fill_(itself, 0).flatten(1).max(dim=1)
        pairs.append(pair)
        gains.append(gain)
    pair = torch.cat(pairs)[:, None]
    first, second = among.gather(1, pair // count), among.gather(1, pair % count)
    return first.squeeze(1), second.squeeze(1), torch.cat(gains)


def _saliency(toward: Tensor, away: Tensor) -> Tensor:
    return toward.clamp_min(0) * away.clamp_min(0)
