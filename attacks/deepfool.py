"""DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2): native, through Foolbox and through ART."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.backends import BackendConfig, MultiBackendAttack
from benchmark.attacks.adapters.foolbox_adapter import run_foolbox
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Noise, Surface, attack, choose, margin, param, per_image

_EXTRA_DISTANCE = 1e-4  # added to each step, so that it ends beyond the linearised boundary
_NEAREST_CLASSES = 4  # classes considered between two full searches
_FULL_SEARCH_EVERY = 10


class DeepFoolConfig(BackendConfig):
    """`distance`: the norm to minimise; `candidates`: classes considered, highest logits first.

    The native attack considers all of them at every tenth step, and in between the four whose boundaries
    were nearest at that step. `overshoot` (η in the paper): how far to go beyond the boundary, as a share of
    the perturbation.
    """

    # ART limits the classes of the whole batch, not those of each image
    unsupported_options: ClassVar = {"art": frozenset({"distance", "candidates"})}

    distance: Literal["l2", "linf"] = "l2"
    steps: int = param(50, ge=1)
    overshoot: float = param(0.02, ge=0, le=1)
    candidates: int = param(10, ge=2)
    backend: Literal["native", "foolbox", "art"] = "native"


@attack("deepfool")
class DeepFool(MultiBackendAttack[DeepFoolConfig]):
    """Steps to the nearest linearised class boundary until the class changes, with almost no margin."""

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        """Images leave the batch as soon as they are misclassified, so easy images cost little."""
        labels, result = goal.labels, x.clone()
        index = torch.arange(len(x), device=x.device)
        current, total = x, torch.zeros_like(x)
        with torch.no_grad():
            logits = surface(x)
        others = logits.scatter(1, labels[:, None], float("-inf")).argsort(dim=1, descending=True)
        others = others[:, : min(self.config.candidates, surface.num_classes) - 1]
        nearest = others
        for number in range(self.config.steps):
            remaining = margin(logits, labels[index]) <= 0
            index, current, total = index[remaining], current[remaining], total[remaining]
            others, nearest = others[remaining], nearest[remaining]
            if len(index) == 0:
                return result
            classes = nearest if number % _FULL_SEARCH_EVERY else others
            step, distances = self._step(surface, current, labels[index], classes)
            nearest = classes.gather(1, distances.argsort(dim=1)[:, :_NEAREST_CLASSES])
            total = total + step
            current = (x[index] + (1 + self.config.overshoot) * total).clamp_(0, 1)
            result[index] = current
            with torch.no_grad():
                logits = surface(current)
        failed = index[margin(logits, labels[index]) <= 0]
        result[failed] = x[failed]
        return result

    def _step(
        self, surface: Surface, current: Tensor, labels: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The step to just beyond the nearest linearised boundary, and the distance of each boundary."""
        current = current.detach().requires_grad_()
        with torch.enable_grad():
            logits = surface(current)
            gaps = logits.gather(1, labels[:, None]) - logits.gather(1, classes)
        dual = 2 if self.config.distance == "l2" else 1
        nearest = torch.full((len(current),), float("inf"), device=current.device)
        nearest_norm, nearest_gradient = torch.ones_like(nearest), torch.zeros_like(current)
        distances = torch.empty_like(gaps)
        count = classes.shape[1]
        for k in range(count):
            (gradient,) = torch.autograd.grad(-gaps[:, k].sum(), current, retain_graph=k + 1 < count)
            largest = gradient.flatten(1).abs().amax(dim=1)
            largest = torch.where(largest > 0, largest, float("inf"))  # no gradient leads to this boundary
            gradient = gradient / per_image(largest)
            norm = torch.linalg.vector_norm(gradient.flatten(1), ord=dual, dim=1)
            distances[:, k] = distance = gaps[:, k].detach().abs() / largest / norm
            nearer = distance < nearest
            nearest = torch.where(nearer, distance, nearest)
            nearest_norm = torch.where(nearer, norm, nearest_norm)
            nearest_gradient = choose(nearer, gradient, nearest_gradient)
        length = per_image(torch.where(nearest.isfinite(), nearest + _EXTRA_DISTANCE, 0.0))
        direction = nearest_gradient / per_image(nearest_norm) if dual == 2 else nearest_gradient.sign()
        return length * direction, distances

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        options = {
            "steps": self.config.steps,
            "candidates": min(self.config.candidates, surface.num_classes),
            "overshoot": self.config.overshoot,
        }
        name = "L2DeepFoolAttack" if self.config.distance == "l2" else "LinfDeepFoolAttack"
        return run_foolbox(name, options, surface, x, goal)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        options = {
            "max_iter": self.config.steps,
            "epsilon": self.config.overshoot,
            "nb_grads": surface.num_classes,
            "verbose": False,
        }
        return run_art("DeepFool", options, surface, x, goal)
