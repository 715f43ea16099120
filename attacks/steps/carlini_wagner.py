"""The loss, optimiser and constraint search shared by the three attacks of Carlini and Wagner.

Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural Networks": section V-A (loss), V-B (box
constraints) and VI-B, VI-C (L0 and L∞, which tighten a constraint after each success).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch
from benchmark.attacks.adapters.backends import MultiBackendAttack, TargetedBackendConfig
from benchmark.attacks.steps.goal import Goal
from torch import Tensor
from typing_extensions import Self

from benchmark.api import Surface, choose, param, per_image, unit

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


@dataclass(eq=False)
class ImageBatch:
    """Tensors with one row for each image that is still optimised; subclasses add the fields."""

    def take(self, which: Tensor) -> Self:
        """The same for some of the images, by mask or index."""
        rows: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            rows[field.name] = value.take(which) if isinstance(value, Goal | ImageBatch) else value[which]
        return type(self)(**rows)


@dataclass(eq=False)
class Adam(ImageBatch):
    """Adam (Kingma and Ba 2015) with a separate step count for each image."""

    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor

    @classmethod
    def like(cls, variables: Tensor) -> Self:
        zeros = torch.zeros_like(variables)
        return cls(zeros, zeros.clone(), torch.zeros(len(variables), device=variables.device))

    def step(self, gradient: Tensor, rate: float) -> Tensor:
        """The update to add to the variables."""
        self.steps += 1
        self.first_moment.lerp_(gradient, 1 - _BETA1)
        self.second_moment.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        scale = (1 - _BETA2**self.steps).sqrt() / (1 - _BETA1**self.steps)
        return -rate * per_image(scale) * self.first_moment / (self.second_moment.sqrt() + _EPS)

    def reset(self, which: Tensor) -> None:
        """Clear the moments and the step count of some images."""
        self.first_moment[which] = 0
        self.second_moment[which] = 0
        self.steps[which] = 0


def margin_gradient(surface: Surface, goal: Goal, images: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the margin, and the margin (B,): the loss f₆ of section V-A without its hinge."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        margins = goal.margin(surface(images))
    (gradient,) = torch.autograd.grad(margins.sum(), images)
    return gradient, margins.detach()


def art_options(config: Any, goal: Goal) -> Mapping[str, Any]:
    """The arguments of ART's `CarliniL2Method` and `CarliniL0Method`."""
    return {
        "confidence": config.kappa,
        "targeted": goal.target is not None,
        "learning_rate": config.lr,
        "binary_search_steps": config.search_steps,
        "max_iter": config.steps,
        "initial_const": config.initial_c,
        "verbose": False,
    }


class ClosestAdversarial:
    """For each image the closest adversarial example found so far, or the clean image if there is none.

    An image is adversarial if its margin exceeds `kappa`. If no image does, the one with the largest
    positive margin is kept.
    """

    def __init__(self, x: Tensor, kappa: float) -> None:
        self.images = x.clone()
        self.distance = torch.full((len(x),), float("inf"), device=x.device)
        self._margin = torch.zeros_like(self.distance)
        self._kappa = kappa

    def update(self, index: Tensor, images: Tensor, margins: Tensor, distance: Tensor) -> Tensor:
        """Keep the images that are better, and return which are the closest adversarial ones so far, (B,)."""
        closer = (margins > self._kappa) & (distance < self.distance[index])
        larger = (margins > self._margin[index]) & self.distance[index].isinf()
        kept = closer | larger
        self.images[index[kept]], self._margin[index[kept]] = images[kept], margins[kept]
        self.distance[index[closer]] = distance[closer]
        return closer


@dataclass(eq=False)
class ConstrainedBatch(ImageBatch):
    """Images under a constraint that is tightened whenever a closer adversarial example is found.

    `constraint` is the largest change τ (B,) for L∞, or the mask of pixels that may change (B, 1, H, W)
    for L0. `failed_constraint` (B,) is the largest τ at which a run failed after a success, 0 at first.
    `failures` (B,) counts failed runs: `steps` steps in sequence without success.
    """

    index: Tensor
    clean: Tensor
    goal: Goal
    images: Tensor
    constraint: Tensor
    failed_constraint: Tensor
    adam: Adam
    failures: Tensor


class ConstraintSearchConfig(TargetedBackendConfig):
    """`kappa`: the margin to reach; `steps`: Adam steps without success after which a run has failed.

    `lr`: learning rate of Adam at the start of a run; it falls to 0 along a cosine.
    """

    kappa: float = param(0.0, ge=0)
    steps: int = param(50, ge=1)
    lr: float = param(1e-2, gt=0)
    backend: Literal["native", "art"] = "native"


ConstraintSearchConfigT = TypeVar("ConstraintSearchConfigT", bound=ConstraintSearchConfig)


class ConstraintSearchAttack(MultiBackendAttack[ConstraintSearchConfigT]):
    """Adam on the images towards a margin of κ, under a constraint that is tightened at each success.

    The variables are the images themselves, clipped to [0, 1]. Under the paper's change of variables by tanh,
    pixels that begin at 0 or 1, as most pixels of a digit do, take hundreds of steps to leave it.
    """

    @property
    @abstractmethod
    def max_failures(self) -> int:
        """The number of failed runs after which an image that was never adversarial is given up."""

    @abstractmethod
    def distances(self, batch: ConstrainedBatch) -> Tensor:
        """The norm of each image's change, shape (B,)."""

    @abstractmethod
    def objective_gradient(self, batch: ConstrainedBatch, margin_loss_gradient: Tensor) -> Tensor:
        """The gradient of the objective to minimise.

        Args:
            batch: The current images.
            margin_loss_gradient: The gradient of max(κ − margin, 0), scaled to a largest value of 1.
        """

    @abstractmethod
    def tightened(self, batch: ConstrainedBatch, gradient: Tensor) -> Tensor:
        """The next constraints of images that are adversarial; `gradient` is that of the margin."""

    @abstractmethod
    def project(self, batch: ConstrainedBatch) -> Tensor:
        """The images, projected onto their constraints."""

    def relax(self, batch: ConstrainedBatch, which: Tensor, distance: Tensor) -> Tensor:
        """Relax the constraints of images `which` (B,) after a failed run, and return whose were relaxed.

        Args:
            batch: The current images.
            which: Mask of the images whose run failed.
            distance: The distance of the closest adversarial example of each image, shape (B,).
        """
        return torch.zeros_like(which)

    def search(self, surface: Surface, x: Tensor, goal: Goal, constraint: Tensor) -> Tensor:
        """Return the closest adversarial examples found; the clean image where there is none.

        Args:
            surface: The surface to attack.
            x: Clean images (B, C, H, W).
            goal: The goal of the attack.
            constraint: The initial constraints.
        """
        config = self.config
        zeros = torch.zeros(len(x), device=x.device)
        batch = ConstrainedBatch(
            index=torch.arange(len(x), device=x.device),
            clean=x,
            goal=goal,
            images=x,
            constraint=constraint,
            failed_constraint=zeros,
            adam=Adam.like(x),
            failures=zeros.clone(),
        )
        closest = ClosestAdversarial(x, config.kappa)
        while len(batch.index):
            gradient, margins = margin_gradient(surface, batch.goal, batch.images)
            success = closest.update(batch.index, batch.images, margins, self.distances(batch))
            if success.any():
                mask = success.view(-1, *[1] * (constraint.ndim - 1))
                batch.constraint = torch.where(mask, self.tightened(batch, gradient), batch.constraint)
                batch.images = self.project(batch)
                batch.adam.reset(success)
            failed = batch.adam.steps >= config.steps
            stepped = batch.images + self._step(batch, gradient, margins)
            batch.images = choose(success, batch.images, stepped.clamp_(0, 1))
            batch.images = self.project(batch)
            if failed.any():
                batch.adam.reset(failed)
                batch.failures = batch.failures + failed
                distance = closest.distance[batch.index]
                retry = distance.isinf() & (batch.failures < self.max_failures)
                relaxed = self.relax(batch, failed & ~distance.isinf(), distance)
                batch = batch.take(~failed | retry | relaxed)
        return closest.images

    def _step(self, batch: ConstrainedBatch, gradient: Tensor, margins: Tensor) -> Tensor:
        margin_loss_gradient = -unit(gradient) * per_image(margins <= self.config.kappa)
        rate = torch.cos(batch.adam.steps / self.config.steps * math.pi / 2)
        objective_gradient = self.objective_gradient(batch, margin_loss_gradient)
        return per_image(rate) * batch.adam.step(objective_gradient, self.config.lr)
