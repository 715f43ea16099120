"""The L2 attack of Carlini and Wagner 2017 (section VI-A): native, through Foolbox and through ART."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.backends import Backed, BackedConfig
from attacks.ball import choose, lengths, per_image
from attacks.carlini import Adam, Nearest, Rows, margin_gradient, run_with_constant
from attacks.contract import Surface, attack
from attacks.goal import Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

_PROGRESS = 0.9999
_LARGEST_C = 1e10
_AGAIN = 4
_EXPLORING = 5.0
_INSIDE = 0.999999  # how near the rim of the box the change of variables begins, as in the authors' code


class CwL2Config(BackedConfig):
    """`kappa`: by how much the wrong score has to lead; `steps`: of Adam for each constant c, at most.

    `search_steps`: values of c tried from the first success on, natively; the libraries count those before it
    too, each of which is ten times the last, `initial_c` the first. After it c is a tenth of the last until
    one fails, and bisected then. `abort_early`: give a c up after a tenth of the steps without progress;
    `lr`: step.

    `box`: what keeps images in [0, 1]. `clip`, the native default, clips them after each step and lets the
    steps shrink to nothing towards the last; they begin at five times `lr` until an image is adversarial, and
    the next values of c go on from the nearest one met, at `lr` and for a quarter of the steps. `tanh` is the
    paper's change of variables, which the libraries follow: under it pixels at the rim, most of a digit's,
    take hundreds of steps to come away from it. The authors' settings go with it, `steps: 10000` and
    `initial_c: 0.001`.
    """

    lacks: ClassVar = {"foolbox": frozenset({"box"}), "art": frozenset({"abort_early", "box"})}

    kappa: float = param(0.0, ge=0)
    steps: int = param(400, ge=1)
    search_steps: int = param(6, ge=1)
    initial_c: float = param(1.0, gt=0)
    lr: float = param(1e-2, gt=0)
    abort_early: bool = True
    box: Literal["clip", "tanh"] | None = None
    backend: Literal["native", "foolbox", "art"] = "native"


@dataclass(eq=False)
class _Search(Rows):
    """The images whose search is not over."""

    index: Tensor
    clean: Tensor
    goal: Goal
    origin: Tensor
    variables: Tensor
    adam: Adam
    c: Tensor
    lowest: Tensor
    highest: Tensor
    reached: Tensor
    loss_before: Tensor
    searches: Tensor

    @property
    def found(self) -> Tensor:
        """Which of them were adversarial at some c that is over, (B,)."""
        return self.highest.isfinite()


@attack("cw-l2")
class CwL2(Backed[CwL2Config]):
    """Adam on |δ|² + c · max(κ − margin, 0), with a search for the c that brings the image nearest.

    Each image has its own c, its own count of steps and its own end: it goes on to its next c, and out of
    the batch, without waiting for the others.
    """

    weak_backends = frozenset({"art"})

    @property
    def norm(self) -> Norm:
        return "l2"

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        config = self.config
        search = self._begin(x, goal)
        nearest = Nearest(x, config.kappa)
        window = -(-config.steps // 10)
        while len(search.index):
            images = self._images(search.variables)
            gradient, margins = margin_gradient(surface, search.goal, images)
            nearest.offer(search.index, images, margins, lengths(images - search.clean))
            # what a later c begins at was adversarial before it: that is no success of this one
            search.reached |= (margins > config.kappa) & ((search.adam.steps > 0) | ~search.found)
            offset = images - search.origin
            missing = (config.kappa - margins).clamp_min(0)
            loss = lengths(offset).square() + search.c * missing
            over = search.adam.steps >= self._steps(search)
            slope = 2 * offset - per_image(search.c * (missing > 0)) * gradient
            search.variables = self._moved(search, images, slope)
            if config.abort_early:
                check = search.adam.steps % window == 0
                over |= check & ~(loss <= _PROGRESS * search.loss_before)
                search.loss_before = torch.where(check, loss, search.loss_before)
            if over.any():
                self._next_c(search, over)
                self._begin_again(search, over, nearest)
                search = search.take(search.searches < config.search_steps)
        return nearest.images

    def _variables(self, images: Tensor) -> Tensor:
        return images.clone() if self.config.box != "tanh" else torch.atanh((2 * images - 1) * _INSIDE)

    def _images(self, variables: Tensor) -> Tensor:
        return variables if self.config.box != "tanh" else (torch.tanh(variables) + 1) / 2

    def _moved(self, search: _Search, images: Tensor, slope: Tensor) -> Tensor:
        """The variables one step on, down a slope that is given for the images."""
        rate = self.config.lr
        if self.config.box == "tanh":
            return search.variables + search.adam.step(slope * 2 * images * (1 - images), rate)
        done = search.adam.steps / self._steps(search)
        exploring = torch.where(search.found, 1.0, _EXPLORING)
        step = search.adam.step(slope, rate) * per_image(exploring * torch.cos(done * math.pi / 2))
        return (search.variables + step).clamp_(0, 1)

    def _steps(self, search: _Search) -> Tensor:
        """How many steps each image has for its c: fewer where it goes on from an adversarial image."""
        steps = self.config.steps
        return torch.where(search.found & (self.config.box != "tanh"), -(-steps // _AGAIN), steps)

    def _begin(self, x: Tensor, goal: Goal) -> _Search:
        count = len(x)
        variables = self._variables(x)
        numbers = torch.zeros(count, device=x.device)
        infinite = torch.full_like(numbers, float("inf"))
        return _Search(
            index=torch.arange(count, device=x.device),
            clean=x,
            goal=goal,
            origin=self._images(variables),
            variables=variables,
            adam=Adam.like(variables),
            c=torch.full_like(numbers, self.config.initial_c),
            lowest=numbers,
            highest=infinite,
            reached=torch.zeros_like(numbers, dtype=torch.bool),
            loss_before=infinite.clone(),
            searches=torch.zeros_like(numbers, dtype=torch.int64),
        )

    def _next_c(self, search: _Search, over: Tensor) -> None:
        """Take the images that are `over` with their c to the next one."""
        fell = over & search.reached
        search.highest = torch.where(fell, search.c, search.highest)
        search.lowest = torch.where(over & ~fell, search.c, search.lowest)
        found = search.found
        middle = torch.where(search.lowest > 0, (search.lowest + search.highest) / 2, search.highest / 10)
        following = torch.where(found, middle, 10 * search.c)
        lost = over & ~found & (following > _LARGEST_C)
        search.c = torch.where(over, following, search.c)
        search.searches = torch.where(lost, self.config.search_steps, search.searches + (over & found))
        search.reached &= ~over
        search.loss_before = search.loss_before.masked_fill(over, float("inf"))
        search.adam.reset(over)

    def _begin_again(self, search: _Search, which: Tensor, nearest: Nearest) -> None:
        """Where the images begin with their next c."""
        begin = search.clean
        if self.config.box != "tanh":
            begin = choose(search.found, nearest.images[search.index], begin)
        search.variables = choose(which, self._variables(begin), search.variables)

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from foolbox.attacks import L2CarliniWagnerAttack

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        library = L2CarliniWagnerAttack(
            binary_search_steps=config.search_steps,
            steps=config.steps,
            stepsize=config.lr,
            confidence=config.kappa,
            initial_const=config.initial_c,
            abort_early=config.abort_early,
        )
        return run_foolbox(library, surface, x, goal, eps=None)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import CarliniL2Method

        return run_with_constant(CarliniL2Method, self.config, surface, x, goal)
