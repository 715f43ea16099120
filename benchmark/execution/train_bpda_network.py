"""Training a network that approximates a purifier, for the backward pass of BPDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.api.noise import Noise
from benchmark.execution.bpda_network import BpdaNetwork
from benchmark.execution.context import ExecutionContext
from benchmark.execution.purified_set import balanced_indices
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.plan.tasks import TrainBpdaNetwork

_STEPS = 300
_BATCH = 50
_RATE = 6e-3
_CROP = 64
"""Largest side of a training crop in pixels."""
_MAX_NOISE = 0.3
"""The highest standard deviation of the noise: images under attack differ from clean images."""


def train_bpda_network(task: TrainBpdaNetwork, context: ExecutionContext) -> None:
    """Store the weights of a network that maps noisy training images to about the output of the purifier.

    A random purifier is drawn once per image, so that the network approximates the mean over draws.
    The metadata hold `unexplained_error`: the squared error on some of the images, relative to the error of
    the identity.
    """
    purifier = context.purifier(task.purifier, task.dataset)
    data = context.training_data(task.dataset)
    indices = balanced_indices(data.train.labels, task.count)
    indices = indices[:: max(1, len(indices) // task.count)]  # if there are more classes than `count`
    with Stopwatch(context.device) as watch, seeded(task.seed_for("init")):
        seeds = task.seed_for("images"), task.seed_for("draw")
        pairs = [
            _noisy_and_purified(purifier, data.take(batch)[0], batch.tolist(), seeds)
            for batch in indices.split(_BATCH)  # type: ignore[no-untyped-call]
        ]
        images, purified = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
        del pairs
        network = _fit(images, purified)
        some, expected = images[:_BATCH], purified[:_BATCH]
        with torch.no_grad():
            error = mse_loss(network(some), expected) / mse_loss(some, expected).clamp_min(1e-12)
    meta = {"seconds": watch.seconds, "images": len(indices), "unexplained_error": float(error)}
    weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    context.put_tensors(task, weights, meta)


def _noisy_and_purified(
    purifier: PurifierModule, images: Tensor, indices: list[int], seeds: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The images with noise of random strength up to `_MAX_NOISE`, and the purified noisy images."""
    noise = Noise(seeds[0], indices)
    strength = _MAX_NOISE * noise.uniform_like(images[:, :1, :1, :1])
    noisy = (images + strength * noise.normal_like(images)).clamp(0, 1)
    purifier.reset(Noise(seeds[1], indices))
    with torch.no_grad():
        return noisy, purifier(noisy)


def _fit(images: Tensor, purified: Tensor) -> BpdaNetwork:
    network = BpdaNetwork(images.shape[1]).to(images.device)
    if torch.equal(images, purified):
        return network  # the untrained network is the identity already
    # a higher rate for the filter, which starts as the identity and may have to change most
    fast: dict[str, Any] = {"params": network.filter.parameters(), "lr": 5 * _RATE}
    optimizer = torch.optim.Adam([fast, {"params": network.change.parameters()}], lr=_RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        batch = torch.randint(len(images), (_BATCH,)).to(images.device)
        rows, columns = (_random_crop(side) for side in images.shape[2:])
        loss = mse_loss(network(images[batch, :, rows, columns]), purified[batch, :, rows, columns])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    return network


def _random_crop(side: int) -> slice:
    """A random crop of one side. Crops suffice because a filter is the same everywhere."""
    start = int(torch.randint(max(side - _CROP, 0) + 1, ()))
    return slice(start, start + _CROP)
