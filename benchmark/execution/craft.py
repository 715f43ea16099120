"""Running attacks, and measuring the gradients of the surfaces that they run on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.api.attack import Surface
from benchmark.api.losses import loss_gradient, margin
from benchmark.api.noise import Noise
from benchmark.errors import PluginError
from benchmark.execution.context import ExecutionContext
from benchmark.execution.convergence import attack_errors, craft_up_to_level
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.execution.surfaces import make_surface
from benchmark.plan.tasks import Craft, GradientProbe
from benchmark.plugins.opened_files import watching

_NEARBY = 1e-4
"""Largest change of a pixel when the response of scores is measured; far below a level of 8 bits."""

_ROUNDING = 1e-6


def craft(first: Craft, context: ExecutionContext, *others: Craft) -> None:
    """Run an attack, with the others of its sweep in the same call, and store the images of each.

    Each task of a shared call records the whole cost of the call, which one task alone would have.
    """
    tasks = [first, *others]
    clean, labels = context.clean(first.shard)
    attacks = [context.attack(task) for task in tasks]
    noises = [Noise(task.seed_for("noise"), task.shard.indices) for task in tasks]
    # Draws of libraries and random purifiers depend on the order of calls: each shard has its own seed.
    seeds = [first.seed_for(purpose, first.shard.start) for purpose in ("surface", "libraries")]
    surface = make_surface(first.surface, first.shard.dataset, context, seeds[0])
    meter = surface.meter
    limit, errors = surface.limited(context.budget * len(clean)), attack_errors(first.attack.name, context)
    with seeded(seeds[1]), Stopwatch(context.device) as watch, errors, limit:
        if first.convergence is not None:
            images, meter = craft_up_to_level(first, context, attacks[0])
            results = [images]
        elif len(tasks) > 1 or first.sweep is not None:
            with watching("attack", attacks[0], *(attack.config for attack in attacks)):
                results = type(attacks[0]).craft_sweep(
                    attacks, surface, clean.clone(), labels.clone(), noises
                )
        else:
            start = None if first.start is None else context.images(first.start, first.shard)
            with watching("attack", attacks[0]):
                results = [attacks[0].craft(surface, clean.clone(), labels.clone(), noises[0], start)]
    meta = {"seconds": watch.seconds, "images": len(clean)}
    meta |= {name: count / len(clean) for name, count in vars(meter).items()}
    meta["score_factor"] = context.score_scale(first.surface.target)
    for task, images in zip(tasks, results, strict=True):
        _check_images(task, images, clean)
    for task, images in zip(tasks, results, strict=True):
        tensors = {"images": images, "relative_margin": _relative_margin(surface, images, labels)}
        context.put_tensors(task, tensors, meta)


def _relative_margin(surface: Surface, images: Tensor, labels: Tensor) -> Tensor:
    """Margins (B,) divided by the spread of the logits; calls the surface with gradients, as attacks do."""
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = surface(images).detach()
    smallest = torch.finfo(logits.dtype).tiny
    return margin(logits, labels) / _spread(logits).clamp_min(smallest)


def _spread(logits: Tensor) -> Tensor:
    return logits.amax(dim=1) - logits.amin(dim=1)


def probe_gradient(task: GradientProbe, context: ExecutionContext) -> None:
    """Store, for each clean image, the largest absolute input gradient of a surface; 0 if it is not finite.

    The tensors are:
        `stable`: For the loss that the harness's own attacks follow.
        `plain`: For the cross-entropy as libraries compute it, which is zero in float32 if the classifier
            is very confident.
        `responds`: Whether the scores change with the image at all. If they do not, as between the steps
            of a quantiser, a zero gradient is correct.
        `classes`: For a target without a purifier, its classes of the clean images; they show whether the
            target only guesses.
    """
    clean, labels = context.clean(task.shard)
    surface = make_surface(task.surface, task.shard.dataset, context, task.seed_for("surface"))
    with Stopwatch(context.device) as watch:
        stable = loss_gradient(surface, clean, labels)[0]
        plain = _cross_entropy_gradient(surface, clean, labels)
        responds = _responds(surface, clean, Noise(task.seed_for("nearby"), task.shard.indices))
    gradients = (("stable", stable), ("plain", plain))
    tensors = {name: gradient.abs().flatten(1).amax(dim=1) for name, gradient in gradients}
    tensors["responds"] = responds
    if task.surface.purifier is None:
        with torch.no_grad():
            tensors["classes"] = surface(clean).argmax(dim=1)
    context.put_tensors(task, tensors, {"seconds": watch.seconds, "images": len(clean)})


def _responds(surface: Surface, x: Tensor, noise: Noise) -> Tensor:
    """Whether a tiny change of the pixels changes the scores of each image (B,)."""
    nearby = (x + _NEARBY * (2 * noise.uniform_like(x) - 1)).clamp(0, 1)
    with torch.no_grad():
        logits, nearby_logits = surface(x), surface(nearby)
    return torch.gt((logits - nearby_logits).abs().amax(dim=1), _ROUNDING * _spread(logits))


def _cross_entropy_gradient(surface: Surface, x: Tensor, labels: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = torch.nn.functional.cross_entropy(surface(x), labels, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def _check_images(task: Craft, images: Any, clean: Tensor) -> None:
    name = task.attack.name
    if not isinstance(images, Tensor) or images.shape != clean.shape or images.dtype != clean.dtype:
        returned = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise PluginError(f"attack {name} returned {returned} for {tuple(clean.shape)} {clean.dtype}")
    if not torch.isfinite(images).all():
        raise PluginError(f"attack {name} returned images that are not finite")
