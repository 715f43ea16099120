"""What the three attacks of Carlini and Wagner 2017 ("Towards Evaluating the Robustness of Neural Networks",
sections V, VI) share: the loss on the scores, Adam for each image, and the search that tightens a limit."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from attacks.backends import Backed, BackedConfig
from attacks.ball import choose, per_image
from attacks.contract import Surface
from attacks.goal import Goal
from attacks.gradients import unit
from benchmark.plugin import param

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


@dataclass(eq=False)
class Rows:
    """Tensors that hold one row for each image still worked on; subclasses add theirs."""

    def take(self, which: Tensor) -> Self:
        """The same for some of the images, by mask or index."""
        rows: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            rows[field.name] = value.take(which) if isinstance(value, Goal | Rows) else value[which]
        return type(self)(**rows)


@dataclass(eq=False)
class Adam(Rows):
    """Adam (Kingma and Ba 2015) with its own count of steps for each image."""

    first: Tensor
    second: Tensor
    steps: Tensor

    @classmethod
    def like(cls, variables: Tensor) -> Self:
        zeros = torch.zeros_like(variables)
        return cls(zeros, zeros.clone(), torch.zeros(len(variables), device=variables.device))

    def step(self, gradient: Tensor, rate: float) -> Tensor:
        """What to add to the variables."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - _BETA1)
        self.second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        scale = (1 - _BETA2**self.steps).sqrt() / (1 - _BETA1**self.steps)
        return -rate * per_image(scale) * self.first / (self.second.sqrt() + _EPS)

    def reset(self, which: Tensor) -> None:
        """Begin anew for some images."""
        self.first[which] = 0
        self.second[which] = 0
        self.steps[which] = 0


def margin_gradient(surface: Surface, goal: Goal, images: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the margin, and the margin (B,): the loss f₆ of section V-A without its hinge."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        margins = goal.margin(surface(images))
    (gradient,) = torch.autograd.grad(margins.sum(), images)
    return gradient, margins.detach()


def run_with_constant(kind: Any, config: Any, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
    """Images of ART's `CarliniL2Method` or `CarliniL0Method`, which take the same arguments."""
    from attacks.art_adapter import run_art

    return run_art(
        lambda classifier: kind(
            classifier,
            confidence=config.kappa,
            targeted=goal.target is not None,
            learning_rate=config.lr,
            binary_search_steps=config.search_steps,
            max_iter=config.steps,
            initial_const=config.initial_c,
            batch_size=len(x),
            verbose=False,
        ),
        surface,
        x,
        goal,
    )


class Nearest:
    """For each image the nearest adversarial one met so far, the clean one where there is none.

    Adversarial is what leads by more than `kappa`; where nothing does, it is what leads most.
    """

    def __init__(self, x: Tensor, kappa: float) -> None:
        self.images = x.clone()
        self.size = torch.full((len(x),), float("inf"), device=x.device)
        self._lead = torch.zeros_like(self.size)
        self._kappa = kappa

    def offer(self, index: Tensor, images: Tensor, margins: Tensor, size: Tensor) -> Tensor:
        """Take what is better; says which of these images lead enough and are the nearest yet, (B,)."""
        nearer = (margins > self._kappa) & (size < self.size[index])
        leading = (margins > self._lead[index]) & self.size[index].isinf()
        taken = nearer | leading
        self.images[index[taken]], self._lead[index[taken]] = images[taken], margins[taken]
        self.size[index[nearer]] = size[nearer]
        return nearer


@dataclass(eq=False)
class Limited(Rows):
    """Images under a limit that is tightened whenever a nearer adversarial one is met.

    `limit` is the greatest change (B,) for L∞, and the pixels that may change (B, 1, H, W) for L0.
    `unmet` (B,) is the greatest size that was asked for without success, 0 at first; `tries` counts how
    often `steps` steps were without success.
    """

    index: Tensor
    clean: Tensor
    goal: Goal
    images: Tensor
    limit: Tensor
    unmet: Tensor
    adam: Adam
    tries: Tensor


class TighteningConfig(BackedConfig):
    """`kappa`: by how much the wrong score has to lead; `steps`: of Adam without success that make a try.

    `lr`: step of Adam, which shrinks to nothing towards the last step of a try.
    """

    kappa: float = param(0.0, ge=0)
    steps: int = param(50, ge=1)
    lr: float = param(1e-2, gt=0)
    backend: Literal["native", "art"] = "native"


TighteningConfigT = TypeVar("TighteningConfigT", bound=TighteningConfig)


class Tightening(Backed[TighteningConfigT]):
    """Adam on the images toward a margin of κ inside a limit, which is tightened at each success.

    The images are the variables, clipped to the box: after the paper's change of variables by tanh, pixels
    that begin at its rim, most of a digit's, take hundreds of steps to come away from it.
    """

    @property
    @abstractmethod
    def most_tries(self) -> int:
        """After how many tries an image that was never adversarial is given up."""

    @abstractmethod
    def size(self, rows: Limited) -> Tensor:
        """The norm of each image's change, shape (B,)."""

    @abstractmethod
    def slope(self, rows: Limited, push: Tensor) -> Tensor:
        """What to descend, given the gradient of max(κ − margin, 0), scaled to a largest value of 1."""

    @abstractmethod
    def tighter(self, rows: Limited, gradient: Tensor) -> Tensor:
        """The next limits, for images that are adversarial; `gradient` is the margin's."""

    @abstractmethod
    def inside(self, rows: Limited) -> Tensor:
        """The images moved inside their limits."""

    def relax(self, rows: Limited, which: Tensor, size: Tensor) -> Tensor:
        """Raise the limit of images `which` (B,), below the least `size` (B,) met; says whose is raised."""
        return torch.zeros_like(which)

    def nearest(self, surface: Surface, x: Tensor, goal: Goal, limit: Tensor) -> Tensor:
        """The adversarial images of smallest size that are met; clean ones where there are none.

        Args:
            surface: What to fool.
            x: Clean images.
            goal: What to reach.
            limit: The limit to begin with.
        """
        config = self.config
        zeros = torch.zeros(len(x), device=x.device)
        rows = Limited(
            index=torch.arange(len(x), device=x.device),
            clean=x,
            goal=goal,
            images=x,
            limit=limit,
            unmet=zeros,
            adam=Adam.like(x),
            tries=zeros.clone(),
        )
        nearest = Nearest(x, config.kappa)
        while len(rows.index):
            gradient, margins = margin_gradient(surface, rows.goal, rows.images)
            better = nearest.offer(rows.index, rows.images, margins, self.size(rows))
            if better.any():
                matching = better.view(-1, *[1] * (limit.ndim - 1))
                rows.limit = torch.where(matching, self.tighter(rows, gradient), rows.limit)
                rows.images = self.inside(rows)
                rows.adam.reset(better)
            stale = rows.adam.steps >= config.steps
            moved = rows.images + self._step(rows, gradient, margins)
            rows.images = choose(better, rows.images, moved.clamp_(0, 1))
            rows.images = self.inside(rows)
            if stale.any():
                rows.adam.reset(stale)
                rows.tries = rows.tries + stale
                size = nearest.size[rows.index]
                untried = size.isinf() & (rows.tries < self.most_tries)
                rows = rows.take(~stale | untried | self.relax(rows, stale & ~size.isinf(), size))
        return nearest.images

    def _step(self, rows: Limited, gradient: Tensor, margins: Tensor) -> Tensor:
        push = -unit(gradient) * per_image(margins <= self.config.kappa)
        rate = torch.cos(rows.adam.steps / self.config.steps * math.pi / 2)
        return per_image(rate) * rows.adam.step(self.slope(rows, push), self.config.lr)
