"""Teaching a net to do as a purifier does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.noise import Noise
from benchmark.purifier import PurifierModule
from benchmark.tasks import Mimic
from benchmark.threats.mimic import MimicNet
from benchmark.work.seeding import seeded
from benchmark.work.surface import balanced
from benchmark.work.workshop import Stopwatch, Workshop

_STEPS = 300
_BATCH = 50
_RATE = 6e-3
_PART = 64
"""Pixels of a side that are shown at a time."""
_LOUDEST = 0.3
"""The highest standard deviation of the noise: images under attack lie off those that are clean."""


def teach(task: Mimic, workshop: Workshop) -> None:
    """Store the weights of a net that gives back, for noisy training images, about what the purifier does.

    A random purifier shows one draw of each image, so that the net comes to the mean of its draws.
    `unexplained_error`: the squared error that is left on some of them, over that of the identity.
    """
    purifier = workshop.purifier(task.purifier, task.dataset)
    data = workshop.training_data(task.dataset)
    chosen = balanced(data.train.labels, task.count)
    chosen = chosen[:: max(1, len(chosen) // task.count)]  # of a thousand classes every other one will do
    with Stopwatch(workshop.device) as watch, seeded(task.seed_for("init")):
        seeds = task.seed_for("images"), task.seed_for("draw")
        pairs = [_shown(purifier, data.take(part)[0], part.tolist(), seeds) for part in chosen.split(_BATCH)]  # type: ignore[no-untyped-call]
        images, purified = (torch.cat(side) for side in zip(*pairs, strict=True))
        del pairs
        net = _taught(images, purified)
        some, done = images[:_BATCH], purified[:_BATCH]
        with torch.no_grad():
            left = mse_loss(net(some), done) / mse_loss(some, done).clamp_min(1e-12)
    meta = {"seconds": watch.seconds, "images": len(chosen), "unexplained_error": float(left)}
    weights = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
    workshop.put_tensors(task, weights, meta)


def _shown(
    purifier: PurifierModule, images: Tensor, indices: list[int], seeds: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The images with noise on them, from none to loud, and what the purifier makes of these."""
    noise = Noise(seeds[0], indices)
    loud = _LOUDEST * noise.uniform_like(images[:, :1, :1, :1])
    noisy = (images + loud * noise.normal_like(images)).clamp(0, 1)
    purifier.noise = Noise(seeds[1], indices)
    purifier.forget()
    with torch.no_grad():
        return noisy, purifier(noisy)


def _taught(images: Tensor, purified: Tensor) -> MimicNet:
    net = MimicNet(images.shape[1]).to(images.device)
    if torch.equal(images, purified):
        return net  # nothing to learn
    # the filter begins as the identity, and may have far to go
    parts: list[dict[str, Any]] = [
        {"params": net.filter.parameters(), "lr": 5 * _RATE},
        {"params": net.change.parameters()},
    ]
    adam = torch.optim.Adam(parts, lr=_RATE)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, _STEPS)
    for _ in range(_STEPS):
        batch = torch.randint(len(images), (_BATCH,)).to(images.device)
        rows, columns = (_place(side) for side in images.shape[2:])
        shown = images[batch, :, rows, columns]
        loss = mse_loss(net(shown), purified[batch, :, rows, columns])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        slower.step()
    return net


def _place(side: int) -> slice:
    """Somewhere along a side, a part that is soon learned from: a filter is the same everywhere."""
    start = int(torch.randint(max(side - _PART, 0) + 1, ()))
    return slice(start, start + _PART)
