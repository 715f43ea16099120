"""The training loop: batches, reports, checkpoints and early stopping."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api.dataset import TrainingData
from benchmark.plugins.plugin import Plugin

Kept = nn.Module | torch.optim.Optimizer

CHECKPOINT_SECONDS = 60.0
"""Minimum time between two checkpoints of a training."""


class Loop:
    """The steps of a training; iterating over the loop yields shuffled batches (images, labels).

    The loop saves checkpoints. If the same training is started again, it resumes from the last checkpoint and
    ends with the same weights as without the interruption. This requires that
    - `kept` contains everything that the steps change,
    - random numbers come from `generator` or torch's global generators,
    - computations are deterministic. Scattered sums, such as the gradient of `weights[labels]`, are not: use
      `F.one_hot` or `F.embedding`.
    Of optimizers only the running averages are saved, not the settings. So a learning rate that changes has
    to be set in every step, as `cosine` does. A `fit` may run several loops, always in the same order.

    Args:
        plugin: The plugin that is trained: receives reports and provides the checkpoints.
        data: Training images.
        generator: On the CPU; shuffles the images.
        batch_size: Images per batch.
        steps: Number of batches; `stop` ends the loop earlier.
        kept: Modules and optimizers by name. The plugin itself, if it is a module, is added.
    """

    def __init__(
        self,
        plugin: Plugin[Any],
        data: TrainingData,
        generator: torch.Generator,
        *,
        batch_size: int,
        steps: int,
        **kept: Kept,
    ) -> None:
        self.step, self._planned = 0, steps
        self._stage = plugin.loops_begun
        plugin.loops_begun += 1
        self.steps = steps if plugin.step_limit is None else min(steps, plugin.step_limit)
        self._plugin, self._data, self._generator = plugin, data, generator
        self._batch_size = batch_size
        if "loop" in kept:
            raise ValueError("the name 'loop' is reserved for the state of the loop itself")
        self._kept: dict[str, Kept] = {**kept, **({"self": plugin} if isinstance(plugin, nn.Module) else {})}
        self._order = torch.empty(0, dtype=torch.int64)
        self._saved = time.monotonic()

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the training images."""
        return self._data.batches_per_epoch(self._batch_size)

    @property
    def epoch(self) -> int:
        """The number of the current pass over the training images, from 1."""
        return 1 + max(0, self.step - 1) // self.per_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        state = self._plugin.checkpoints.load()
        stage = -1 if state is None else int(state["loop.stage"])
        if stage > self._stage:
            return  # this loop was complete when the training was interrupted
        if state is not None and stage == self._stage:
            self._restore(state)
        while self.step < self.steps:
            within = self.step % self.per_epoch
            if within == 0:
                self._order = torch.randperm(len(self._data.train), generator=self._generator)
            self.step += 1
            start = within * self._batch_size
            yield self._data.take(self._order[start : start + self._batch_size])
            if time.monotonic() - self._saved >= CHECKPOINT_SECONDS and self.step < self.steps:
                self._plugin.checkpoints.save(self._state())
                self._saved = time.monotonic()

    def every(self, steps: int) -> bool:
        """Whether the current step is a multiple of `steps`, or the last one."""
        return self.step % steps == 0 or self.step == self.steps

    @property
    def progress(self) -> float:
        """The number of completed steps divided by the number of planned steps; in [0, 1) during the loop."""
        return (self.step - 1) / self._planned

    def cosine(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Set the learning rate of the current step: cosine decay from `lr` in the first step to nearly 0."""
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * self.progress)) / 2

    def stop(self) -> None:
        """Make the current step the last one."""
        self.steps = self.step

    def report(self, **values: Tensor | float) -> None:
        """Report losses or rates at every tenth step and at the last one; other calls do nothing.

        The training fails if a reported value is not finite.
        """
        if not self.every(10):
            return
        numbers = {k: float(v.detach() if isinstance(v, Tensor) else v) for k, v in values.items()}
        self._plugin.report(self.step, self.steps, epoch=self.epoch, **numbers)

    def _state(self) -> dict[str, Tensor]:
        state = {
            "loop.stage": torch.tensor(self._stage),
            "loop.step": torch.tensor(self.step),
            "loop.order": self._order,
            "loop.generator": self._generator.get_state(),
            "loop.global": torch.get_rng_state(),
        }
        if self._data.device.type == "cuda":
            state["loop.cuda"] = torch.cuda.get_rng_state(self._data.device)
        for name, kept in self._kept.items():
            tensors = kept.state_dict() if isinstance(kept, nn.Module) else _moments(kept)
            state |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        return state

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        self.step = int(state["loop.step"])
        self._order = state["loop.order"]
        self._generator.set_state(state["loop.generator"])
        torch.set_rng_state(state["loop.global"])
        if "loop.cuda" in state:
            torch.cuda.set_rng_state(state["loop.cuda"], self._data.device)
        for name, kept in self._kept.items():
            tensors = {key[len(name) + 1 :]: state[key] for key in state if key.startswith(f"{name}.")}
            if isinstance(kept, nn.Module):
                kept.load_state_dict(tensors)
            else:
                _set_moments(kept, tensors)


def not_finite(module: nn.Module) -> str | None:
    """The name of the first tensor of a module that is not finite; None if all are."""
    tensors = {name: t for name, t in module.state_dict().items() if t.is_floating_point()}
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the weights and buffers of a module."""
    content = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def steps_of(data: TrainingData, *, epochs: int, batch_size: int, at_least: int = 0) -> int:
    """Batches in `epochs` passes; in more whole passes if that would be fewer than `at_least`."""
    per_epoch = data.batches_per_epoch(batch_size)
    return max(epochs, -(-at_least // per_epoch)) * per_epoch


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The running averages of an optimizer, by parameter, without its settings."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _set_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moved in optimizer.state.items():
        for name, value in moved.items():
            if value.shape == parameter.shape:
                # fused optimizers require the memory layout of the weights
                moved[name] = torch.empty_like(parameter).copy_(value)
