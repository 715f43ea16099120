"""Looking for what attacks would not tell."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from attacks.ball import Ball
from attacks.gradients import margin
from benchmark.errors import PluginError, told
from benchmark.keys import seed_from
from benchmark.noise import Noise, StreamNoise
from benchmark.tasks import Examine, NoiseSearch, Shard, Slope
from benchmark.threats.surfaces import MeteredSurface, PipelineSurface
from benchmark.work.score import draw, purify_seed
from benchmark.work.seeding import seeded
from benchmark.work.surface import make_surface
from benchmark.work.workshop import Stopwatch, Workshop, address

_IMAGES = 4
_CALLS = 3
_SLOPE_IMAGES = 10
_DIRECTIONS = 20
_LAST_DIGITS = 1e-3
_STEP = 1e-3
"""How far pixels are moved for a finite difference: less than an attack's step, far more than rounding."""


def examine(task: Examine, workshop: Workshop) -> None:
    """Store how far the answers of a pipeline are apart that should be the same.

    `alone`, `again`, `with_gradients`: for each of a few images the mean difference of its pixels when it is
    purified alone and not among others, at later calls, with gradients on. `spread`: how much the purified
    images that are taken for one class differ, over how much the clean ones of a class do. `probabilities`:
    whether the target's scores are some, or as hard to follow.
    """
    clean, labels = workshop.clean(task.shard)
    target = workshop.target(task.target)
    purifier = workshop.purifier(task.purifier, task.shard.dataset)
    purified = workshop.tensors(task.clean)["images"].to(clean.device)
    seed, few = purify_seed(task.clean), clean[:_IMAGES]
    part = Shard(task.shard.dataset, task.shard.start, task.shard.start + len(few))

    def one(x: Tensor, shard: Shard, *, gradients: bool = False) -> Tensor:
        return draw(purifier, x, seed, shard, decide=False, gradients=gradients)[0]

    with Stopwatch(workshop.device) as watch:
        together = one(few, part)
        singles = [Shard(part.dataset, index, index + 1) for index in part.indices]
        alone = torch.cat([one(x[None], shard) for x, shard in zip(few, singles, strict=True)])
        again = torch.stack([_apart(one(few, part), together) for _ in range(_CALLS)]).amax(dim=0)
        followed = one(few.clone().requires_grad_(), part, gradients=True)
        with torch.no_grad():
            scores, answers = target(clean), target(purified).argmax(dim=1)
    apart = {
        "alone": torch.maximum(_apart(alone, together), _apart(purified[: len(few)], together)),
        "again": again,
        "with_gradients": _apart(followed, together),
    }
    meta = {
        "seconds": watch.seconds,
        "images": len(clean),
        "spread": _spread(purified, answers) / max(_spread(clean, labels), 1e-12),
        "probabilities": _are_probabilities(scores) or _differ_in_last_digits(scores),
        "task": task.content(),
    }
    workshop.store.put_tensors(address(task), {name: x.detach().cpu() for name, x in apart.items()}, meta)


def _are_probabilities(scores: Tensor) -> bool:
    bounded = (scores >= 0).all() and (scores <= 1).all()
    return bool(bounded and ((scores.sum(dim=1) - 1).abs() < 1e-4).all())


def _differ_in_last_digits(scores: Tensor) -> bool:
    """Whether the scores of most images are equal but for what float32 can hardly tell apart."""
    spread = scores.amax(dim=1) - scores.amin(dim=1)
    return bool((spread < _LAST_DIGITS * scores.abs().amax(dim=1)).float().mean() > 0.5)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).detach().abs().flatten(1).mean(dim=1)


def _spread(images: Tensor, labels: Tensor) -> float:
    """The mean variance of pixels within a class."""
    groups = [images[labels == label] for label in labels.unique()]  # type: ignore[no-untyped-call]
    variances = [group.var(dim=0).mean() for group in groups if len(group) > 1]
    return float(torch.stack(variances).mean()) if variances else float("nan")


def slope(task: Slope, workshop: Workshop) -> None:
    """Store the cosine of gradients with finite differences along random directions, for a few images.

    In double precision. `flat` are images at which nothing changes: what is followed there is a stand-in
    that the plugin chose, not a mistaken gradient. `refused` says why it could not be done.
    """
    clean, labels = workshop.clean(task.shard)
    # a little off the rim of the box, so that both sides of each image are in it
    x, labels = clean[:_SLOPE_IMAGES].double() * 0.98 + 0.01, labels[:_SLOPE_IMAGES]
    refused = ""
    cosines = flat = torch.zeros(0)
    with Stopwatch(workshop.device) as watch, seeded(seed_from("slope", task.key)):
        try:
            cosines, flat = _cosines(task, workshop, x, labels)
        except (RuntimeError, PluginError) as error:  # a plugin may insist on single precision
            refused = told(error)
    meta = {"seconds": watch.seconds, "images": len(x), "refused": refused, "task": task.content()}
    workshop.store.put_tensors(address(task), {"cosine": cosines.cpu(), "flat": flat.cpu()}, meta)


def _cosines(task: Slope, workshop: Workshop, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    original = make_surface(task.surface, task.shard.dataset, workshop, 0)
    surface: MeteredSurface = copy.deepcopy(original).double()
    generator = torch.Generator().manual_seed(0)

    def loss(images: Tensor) -> Tensor:
        if isinstance(surface, PipelineSurface):
            surface.purifier.noise = StreamNoise(0)  # the same draws each time
            surface.purifier.forget()
        return margin(surface(images), labels)

    followed = x.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(followed).sum(), followed)
    told_by, found = [], []
    with torch.no_grad():
        for _ in range(_DIRECTIONS):
            way = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            told_by.append((gradient * way).flatten(1).sum(dim=1))
            found.append((loss(x + _STEP * way) - loss(x - _STEP * way)) / (2 * _STEP))
    ours, theirs = torch.stack(told_by, dim=1), torch.stack(found, dim=1)
    return torch.nn.functional.cosine_similarity(ours, theirs, dim=1), (theirs == 0).all(dim=1)


def search_noise(task: NoiseSearch, workshop: Workshop) -> None:
    """Store which images random points of their ball are wrong about, twice each where draws differ."""
    score = task.score
    clean, labels = workshop.clean(score.shard)
    target = workshop.target(score.target)
    purifier = workshop.purifier(score.purifier, score.shard.dataset)
    norm, eps = score.attack.norm, score.attack.eps
    assert norm in ("linf", "l2")
    assert eps is not None
    ball = Ball(clean, eps, norm)
    broken = torch.zeros_like(labels, dtype=torch.bool)
    with Stopwatch(workshop.device) as watch, torch.no_grad():
        for sample in range(task.samples):
            images = ball.random_point(Noise(seed_from("noise-search", sample), score.shard.indices))
            wrong = torch.ones_like(broken)
            for again in range(2 if score.purifier.stochastic else 1):
                seed = seed_from("noise-search", task.key, sample, again)
                purified = draw(purifier, images, seed, score.shard, decide=False)[0]
                wrong &= target(purified).argmax(dim=1) != labels
            broken |= wrong
    meta = {"seconds": watch.seconds, "images": len(clean), "task": task.content()}
    workshop.store.put_tensors(address(task), {"broken": broken.cpu()}, meta)
