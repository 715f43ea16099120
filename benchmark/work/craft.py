"""Running attacks, and examining the gradients that they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attacks.contract import Surface
from attacks.gradients import loss_gradient, margin
from benchmark.errors import BudgetError, PluginError, told
from benchmark.noise import Noise
from benchmark.opened_files import watching
from benchmark.tasks import Craft, Probe
from benchmark.work.effort import craft_with_effort
from benchmark.work.seeding import seeded
from benchmark.work.surface import make_surface
from benchmark.work.workshop import Stopwatch, Workshop

_NEARBY = 1e-4

_ROUNDING = 1e-6


def craft_alone(task: Craft, workshop: Workshop) -> None:
    """Run one attack and store its images."""
    craft([task], workshop)


def craft(tasks: Sequence[Craft], workshop: Workshop) -> None:
    """Run one attack, or several that one call can serve, and store the images of each.

    The costs of a shared call are noted whole with each of its members: it is what one of them alone
    would have cost.
    """
    first = tasks[0]
    clean, labels = workshop.clean(first.shard)
    attacks = [workshop.attack(task) for task in tasks]
    noises = [Noise(task.seed_for("noise"), task.shard.indices) for task in tasks]
    # What libraries and random purifiers draw depends on the order of calls, so each shard has its own seed.
    seeds = [first.seed_for(purpose, first.shard.start) for purpose in ("surface", "libraries")]
    surface = make_surface(first.surface, first.shard.dataset, workshop, seeds[0])
    surface.allowed = workshop.budget * len(clean)
    passes = surface.meter
    with seeded(seeds[1]), Stopwatch(workshop.device) as watch:
        try:
            if first.effort is not None:
                images, passes = craft_with_effort(first, workshop, attacks[0])
                found = [images]
            elif len(tasks) > 1 or first.sweep is not None:
                with watching("attack", attacks[0], *(attack.config for attack in attacks)):
                    found = type(attacks[0]).craft_sweep(
                        attacks, surface, clean.clone(), labels.clone(), noises
                    )
            else:
                start = None if first.start is None else workshop.images(first.start, first.shard)
                with watching("attack", attacks[0]):
                    found = [attacks[0].craft(surface, clean.clone(), labels.clone(), noises[0], start)]
        except BudgetError as error:
            raise BudgetError(
                f"attack {first.attack.name} asked for more than {workshop.allowance}"
            ) from error
        except PluginError:
            raise
        except (Exception, SystemExit) as error:  # whatever an attack raises is no robustness: the cell fails
            raise PluginError(f"attack {first.attack.name} raised {told(error)}") from error
    meter = {name: count / len(clean) for name, count in vars(passes).items()}
    meter["score_factor"] = workshop.score_factor(first.surface.target)
    for task, images in zip(tasks, found, strict=True):
        _check(task, images, clean)
    surface.allowed = float("inf")
    for task, images in zip(tasks, found, strict=True):
        tensors = {"images": images, "relative_margin": _lead(surface, images, labels)}
        workshop.put_tensors(task, tensors, {"seconds": watch.seconds, "images": len(clean)} | meter)


def _lead(surface: Surface, images: Tensor, labels: Tensor) -> Tensor:
    """By what share of the spread of its scores the surface errs on each image, asked as attacks ask it."""
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = surface(images).detach()
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    lead: Tensor = margin(logits, labels) / spread.clamp_min(torch.finfo(logits.dtype).tiny)
    return lead


def probe(task: Probe, workshop: Workshop) -> None:
    """Store, for each clean image, the largest absolute input gradient of the surface; 0 if it is no number.

    `responds` tells whether the scores change with the image at all: where they do not, as between the steps
    of a quantiser, a gradient of zero is the true one. `stable` is of the loss that our attacks follow,
    `plain` of the cross-entropy as libraries compute it, which is zero in float32 where the classifier is
    sure. `classes` is what a bare target says of the clean images: whether it only guesses is seen there.
    """
    clean, labels = workshop.clean(task.shard)
    surface = make_surface(task.surface, task.shard.dataset, workshop, task.seed_for("surface"))
    with Stopwatch(workshop.device) as watch:
        gradients = {
            "stable": loss_gradient(surface, clean, labels)[0],
            "plain": _plain(surface, clean, labels),
        }
        moves = _moves(surface, clean, Noise(task.seed_for("nearby"), task.shard.indices))
    largest = {name: gradient.abs().flatten(1).amax(dim=1) for name, gradient in gradients.items()}
    found = largest | {"responds": moves}
    if task.surface.purifier is None:
        with torch.no_grad():
            found["classes"] = surface(clean).argmax(dim=1)
    workshop.put_tensors(task, found, {"seconds": watch.seconds, "images": len(clean)})


def _moves(surface: Surface, x: Tensor, noise: Noise) -> Tensor:
    """Whether the scores of each image (B,) change when its pixels do, by far less than a level of 8 bits."""
    nearby = (x + _NEARBY * (2 * noise.uniform_like(x) - 1)).clamp(0, 1)
    with torch.no_grad():
        here, there = surface(x), surface(nearby)
    spread = here.amax(dim=1) - here.amin(dim=1)
    apart: Tensor = (here - there).abs().amax(dim=1)
    return torch.gt(apart, _ROUNDING * spread)


def _plain(surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = torch.nn.functional.cross_entropy(surface(x), labels, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def _check(task: Craft, images: Any, clean: Tensor) -> None:
    name = task.attack.name
    if not isinstance(images, Tensor) or images.shape != clean.shape or images.dtype != clean.dtype:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise PluginError(f"attack {name} returned {shape} for {tuple(clean.shape)} {clean.dtype}")
    if not torch.isfinite(images).all():
        raise PluginError(f"attack {name} returned images that are not finite")
