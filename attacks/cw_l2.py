"""The L2 attack of Carlini and Wagner 2017 (section VI-A): native, through Foolbox and through ART."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from benchmark.attacks.adapters.art_adapter import run_art
from benchmark.attacks.adapters.backends import MultiBackendAttack, TargetedBackendConfig
from benchmark.attacks.adapters.foolbox_adapter import run_foolbox
from benchmark.attacks.steps.carlini_wagner import (
    Adam,
    ClosestAdversarial,
    ImageBatch,
    art_options,
    margin_gradient,
)
from benchmark.attacks.steps.goal import Goal
from torch import Tensor

from benchmark.api import Noise, Surface, attack, choose, lengths, param, per_image

_PROGRESS = 0.9999  # a run makes progress if its loss falls below this share of its earlier loss
_LARGEST_C = 1e10
_LATER_STEPS = 4  # after the first success a value of c gets a quarter of the steps
_EXPLORATION = 5.0  # until the first success the learning rate is five times as high
_ATANH_SCALE = 0.999999  # keeps atanh finite at 0 and 1, as in the authors' code


class CwL2Config(TargetedBackendConfig):
    """`kappa`: the margin to reach; `steps`: most Adam steps for each constant c; `lr`: learning rate.

    The search begins at `initial_c` and multiplies c by ten until the first success. Then it divides c by ten
    until a failure, and bisects after that. `search_steps` is the number of values of c: natively those from
    the first success on, in the libraries all of them. `abort_early` ends a value of c after a tenth of the
    steps without progress.

    `box` is how images stay in [0, 1]. `clip`, the native default, clips them after each step. Its learning
    rate falls to 0 along a cosine. Until the first success it begins at five times `lr`; later values of c
    start from the closest adversarial example, at `lr` and with a quarter of the steps. `tanh` is the paper's
    change of variables (section V-B), which the libraries use. Under it pixels at 0 or 1, as most pixels of a
    digit are, take hundreds of steps to leave it. The authors' settings for it are `steps: 10000` and
    `initial_c: 0.001`.
    """

    unsupported_options: ClassVar = {"foolbox": frozenset({"box"}), "art": frozenset({"abort_early", "box"})}

    kappa: float = param(0.0, ge=0)
    steps: int = param(400, ge=1)
    search_steps: int = param(6, ge=1)
    initial_c: float = param(1.0, gt=0)
    lr: float = param(1e-2, gt=0)
    abort_early: bool = True
    box: Literal["clip", "tanh"] | None = None
    backend: Literal["native", "foolbox", "art"] = "native"


@dataclass(eq=False)
class _SearchState(ImageBatch):
    """The state of the search for each image that has not finished."""

    index: Tensor
    clean: Tensor
    goal: Goal
    origin: Tensor
    variables: Tensor
    adam: Adam
    c: Tensor
    lower_c: Tensor
    upper_c: Tensor
    success: Tensor
    previous_loss: Tensor
    searches: Tensor

    @property
    def solved(self) -> Tensor:
        """Which images were adversarial at an earlier value of c, (B,)."""
        return self.upper_c.isfinite()


@attack("cw-l2")
class CwL2(MultiBackendAttack[CwL2Config]):
    """Minimises |δ|² + c · max(κ − margin, 0) by Adam and searches for the best c.

    Each image has its own c and its own step count. It goes on to its next c, and leaves the batch, without
    waiting for the other images.
    """

    norm = "l2"
    weak_backends = frozenset({"art"})

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        config = self.config
        state = self._initial_state(x, goal)
        closest = ClosestAdversarial(x, config.kappa)
        window = -(-config.steps // 10)
        while len(state.index):
            images = self._images(state.variables)
            gradient, margins = margin_gradient(surface, state.goal, images)
            closest.update(state.index, images, margins, lengths(images - state.clean))
            # a later c starts from an adversarial example: that one is no success of this c
            state.success |= (margins > config.kappa) & ((state.adam.steps > 0) | ~state.solved)
            delta = images - state.origin
            margin_loss = (config.kappa - margins).clamp_min(0)
            loss = lengths(delta).square() + state.c * margin_loss
            finished = state.adam.steps >= self._max_steps(state)
            loss_gradient = 2 * delta - per_image(state.c * (margin_loss > 0)) * gradient
            state.variables = self._step(state, images, loss_gradient)
            if config.abort_early:
                check = state.adam.steps % window == 0
                finished |= check & ~(loss <= _PROGRESS * state.previous_loss)
                state.previous_loss = torch.where(check, loss, state.previous_loss)
            if finished.any():
                self._choose_next_c(state, finished)
                self._restart(state, finished, closest)
                state = state.take(state.searches < config.search_steps)
        return closest.images

    def _variables(self, images: Tensor) -> Tensor:
        return images.clone() if self.config.box != "tanh" else torch.atanh((2 * images - 1) * _ATANH_SCALE)

    def _images(self, variables: Tensor) -> Tensor:
        return variables if self.config.box != "tanh" else (torch.tanh(variables) + 1) / 2

    def _step(self, state: _SearchState, images: Tensor, gradient: Tensor) -> Tensor:
        """The variables after one step of Adam; `gradient` is with respect to the images."""
        rate = self.config.lr
        if self.config.box == "tanh":
            return state.variables + state.adam.step(gradient * 2 * images * (1 - images), rate)
        progress = state.adam.steps / self._max_steps(state)
        factor = torch.where(state.solved, 1.0, _EXPLORATION)
        step = state.adam.step(gradient, rate) * per_image(factor * torch.cos(progress * math.pi / 2))
        return (state.variables + step).clamp_(0, 1)

    def _max_steps(self, state: _SearchState) -> Tensor:
        """The number of steps for the current c: fewer if it starts from an adversarial example."""
        steps = self.config.steps
        return torch.where(state.solved & (self.config.box != "tanh"), -(-steps // _LATER_STEPS), steps)

    def _initial_state(self, x: Tensor, goal: Goal) -> _SearchState:
        variables = self._variables(x)
        zeros = torch.zeros(len(x), device=x.device)
        infinite = torch.full_like(zeros, float("inf"))
        return _SearchState(
            index=torch.arange(len(x), device=x.device),
            clean=x,
            goal=goal,
            origin=self._images(variables),
            variables=variables,
            adam=Adam.like(variables),
            c=torch.full_like(zeros, self.config.initial_c),
            lower_c=zeros,
            upper_c=infinite,
            success=torch.zeros_like(zeros, dtype=torch.bool),
            previous_loss=infinite.clone(),
            searches=torch.zeros_like(zeros, dtype=torch.int64),
        )

    def _choose_next_c(self, state: _SearchState, finished: Tensor) -> None:
        """Update the bounds on c of the finished images, and set their next c."""
        succeeded = finished & state.success
        state.upper_c = torch.where(succeeded, state.c, state.upper_c)
        state.lower_c = torch.where(finished & ~succeeded, state.c, state.lower_c)
        solved = state.solved
        smaller = torch.where(state.lower_c > 0, (state.lower_c + state.upper_c) / 2, state.upper_c / 10)
        next_c = torch.where(solved, smaller, 10 * state.c)
        given_up = finished & ~solved & (next_c > _LARGEST_C)
        state.c = torch.where(finished, next_c, state.c)
        state.searches = torch.where(given_up, self.config.search_steps, state.searches + (finished & solved))
        state.success &= ~finished
        state.previous_loss = state.previous_loss.masked_fill(finished, float("inf"))
        state.adam.reset(finished)

    def _restart(self, state: _SearchState, which: Tensor, closest: ClosestAdversarial) -> None:
        """Set the images from which the next c starts."""
        start = state.clean
        if self.config.box != "tanh":
            start = choose(state.solved, closest.images[state.index], start)
        state.variables = choose(which, self._variables(start), state.variables)

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        config = self.config
        options = {
            "binary_search_steps": config.search_steps,
            "steps": config.steps,
            "stepsize": config.lr,
            "confidence": config.kappa,
            "initial_const": config.initial_c,
            "abort_early": config.abort_early,
        }
        return run_foolbox("L2CarliniWagnerAttack", options, surface, x, goal)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        return run_art("CarliniL2Method", art_options(self.config, goal), surface, x, goal)
