"""The loop that trainings run in: batches, reports, checkpoints, an early end."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.plugin import Plugin

Kept = nn.Module | torch.optim.Optimizer

CHECKPOINT_SECONDS = 60.0
"""How long a training goes on before it saves its state again."""

_REPORT_EVERY = 10


class Loop:
    """The steps of a training: iterate over it for shuffled batches (images, labels).

    State is saved now and then; when the same training is started again, the loop goes on from there
    and ends with the same weights as if it had never been cut off. So that this holds, everything that
    the steps change must be in `kept`, what they draw must come from `generator` or from torch's global
    generators, and what they compute must be deterministic (scattered sums, such as the gradient of
    `weights[labels]`, are not: use `F.one_hot` or `F.embedding`). Of optimizers the running averages are
    kept and not the settings: set a rate that changes in every step, as `cosine` does. A `fit` may run
    several loops in turn; their order tells them apart.

    Args:
        plugin: Who is trained; told of progress, and asked for its checkpoints.
        data: Training images.
        generator: On the CPU; shuffles the images.
        batch_size: Images in a batch.
        steps: How many batches; `stop` ends the loop earlier.
        kept: Modules and optimizers by name, beside the plugin itself if it is a module.
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
        self.step = 0
        self._stage = plugin.loops_begun
        plugin.loops_begun += 1
        self._planned = steps
        self.steps = steps if plugin.step_limit is None else min(steps, plugin.step_limit)
        self._plugin = plugin
        self._data = data
        self._generator = generator
        self._batch_size = batch_size
        if "loop" in kept:
            raise ValueError("nothing kept may be named 'loop': the loop's own state is")
        self._kept: dict[str, Kept] = {**kept, **({"self": plugin} if isinstance(plugin, nn.Module) else {})}
        self._order = torch.empty(0, dtype=torch.int64)
        self._saved = time.monotonic()

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the training images."""
        return self._data.batches_per_epoch(self._batch_size)

    @property
    def epoch(self) -> int:
        """The pass that the current step belongs to, from 1."""
        return 1 + max(0, self.step - 1) // self.per_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        state = self._plugin.checkpoints.load()
        if state is not None and int(state["loop.stage"]) > self._stage:
            return  # this stage was over when the training was cut off
        if state is not None and int(state["loop.stage"]) == self._stage:
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
        """The share of the planned steps that came before this one, in [0, 1)."""
        return (self.step - 1) / self._planned

    def cosine(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Set the rate of the current step: from `lr` in the first one to nearly 0, along a cosine."""
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * self.progress)) / 2

    def stop(self) -> None:
        """Make the current step the last one."""
        self.steps = self.step

    def report(self, **figures: Tensor | float) -> None:
        """Tell the harness how it goes: every tenth step; a figure that is not finite ends the training."""
        if not self.every(_REPORT_EVERY):
            return
        numbers = {
            name: float(figure.detach() if isinstance(figure, Tensor) else figure)
            for name, figure in figures.items()
        }
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
            tensors = {
                key.removeprefix(f"{name}."): tensor
                for key, tensor in state.items()
                if key.startswith(f"{name}.")
            }
            if isinstance(kept, nn.Module):
                kept.load_state_dict(tensors)
            else:
                _set_moments(kept, tensors)


def not_finite(module: nn.Module) -> str | None:
    """The name of some weights that are not finite, where there are any."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the weights and buffers of a module."""
    content = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def steps_of(data: TrainingData, *, epochs: int, batch_size: int, at_least: int = 0) -> int:
    """Batches in `epochs` passes, in whole passes more where these are fewer than `at_least`."""
    per_epoch = data.batches_per_epoch(batch_size)
    return max(epochs, -(-at_least // per_epoch)) * per_epoch


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The running averages of an optimizer, by parameter; its settings are the code's."""
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
                # in the memory layout of the weights, which fused optimizers take for granted
                moved[name] = torch.empty_like(parameter).copy_(value)
