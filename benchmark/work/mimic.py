"""Teaching a net to do as a purifier does."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.keys import seed_from
from benchmark.noise import Noise
from benchmark.purifier import PurifierModule
from benchmark.tasks import Mimic
from benchmark.threats.mimic import MimicNet
from benchmark.work.seeding import seeded
from benchmark.work.surface import balanced
from benchmark.work.workshop import Stopwatch, Workshop, address

_STEPS = 300
_BATCH = 50
_RATE = 6e-3
_LOUDEST = 0.3
"""The highest standard deviation of the noise: images under attack lie off those that are clean."""


def teach(task: Mimic, workshop: Workshop) -> None:
    """Store the weights of a net that gives back, for noisy training images, about what the purifier does.

    A random purifier shows one draw of each image, so that the net comes to the mean of its draws.
    `unexplained`: the squared error that is left, over that of the identity.
    """
    purifier = workshop.purifier(task.purifier, task.dataset)
    data = workshop.training_data(task.dataset)
    chosen = balanced(data.train.labels, task.count)
    with Stopwatch(workshop.device) as watch, seeded(seed_from("mimic", task.key)):
        pairs = [_shown(purifier, data.take(part)[0], part.tolist()) for part in chosen.split(_BATCH)]  # type: ignore[no-untyped-call]
        images, purified = (torch.cat(side) for side in zip(*pairs, strict=True))
        net = _taught(images, purified)
        with torch.no_grad():
            left = mse_loss(net(images), purified) / mse_loss(images, purified).clamp_min(1e-12)
    meta = {
        "seconds": watch.seconds,
        "images": len(chosen),
        "unexplained": float(left),
        "task": task.content(),
    }
    weights = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
    workshop.store.put_tensors(address(task), weights, meta)


def _shown(purifier: PurifierModule, images: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
    """The images with noise on them, from none to loud, and what the purifier makes of these."""
    noise = Noise(seed_from("mimic-images"), indices)
    loud = _LOUDEST * noise.uniform_like(images[:, :1, :1, :1])
    noisy = (images + loud * noise.normal_like(images)).clamp(0, 1)
    purifier.noise = Noise(seed_from("mimic-draw"), indices)
    purifier.forget()
    with torch.no_grad():
        return noisy, purifier(noisy)


def _taught(images: Tensor, purified: Tensor) -> MimicNet:
    net = MimicNet(images.shape[1]).to(images.device)
    if torch.equal(images, purified):
        return net  # nothing to learn
    adam = torch.optim.Adam(net.parameters())
    for step in range(_STEPS):
        adam.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * step / _STEPS)) / 2
        batch = torch.randint(len(images), (_BATCH,)).to(images.device)
        loss = mse_loss(net(images[batch]), purified[batch])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return net
