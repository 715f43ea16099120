"""Looking for what attacks would not tell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from attacks.ball import Ball
from attacks.gradients import margin
from benchmark.keys import seed_from
from benchmark.noise import Noise, StreamNoise
from benchmark.purifier import PurifierModule
from benchmark.tasks import Examine, NoiseSearch, Shard, Slope
from benchmark.threats.surfaces import MeteredSurface, PipelineSurface
from benchmark.work.score import draw
from benchmark.work.seeding import seeded
from benchmark.work.surface import make_surface
from benchmark.work.workshop import Stopwatch, Workshop

_IMAGES = 4
_CALLS = 3
_DRAWS = 5
_CHANCE = 12
"""Of two means of five draws, the squares of their difference over those of its standard error."""
_LAST_DIGITS = 1e-3
_RIM = 0.08
_HALF = 0.5


@dataclass(frozen=True)
class _Scale:
    """Finite differences of two steps, by which pixels are moved on average, along random directions.

    They tell a slope where they are alike: from a cosine of `even` on. Along a direction squares of `block`
    by `block` pixels move as one.
    """

    steps: tuple[float, float]
    directions: int
    even: float
    block: int = 1


_SCALES = (
    _Scale((0.005, 0.015), 12, 0.9),  # above a level of 8 bits, so that to round to 8 bits hides nothing
    _Scale((0.1, 0.2), 24, 0.65),  # above a level of 3 bits
    _Scale((0.1, 0.2), 24, 0.65, block=4),  # above a level of a thumbnail of 2 bits, whose pixels are means
)
"""The first at which half of the images have a slope is taken."""


def examine(task: Examine, workshop: Workshop) -> None:
    """Store how far the answers of a pipeline are apart that should be the same.

    `batch_of_one`, `repeat_call`, `with_gradients`, `attack_call`: for each of a few images the mean
    difference of its pixels when it is
    purified alone and not among others, at later calls, with gradients on, and as attacks ask: those on one
    stream of noise, and on with what the last call left behind. `spread`: how much the purified
    images that are taken for one class differ, over how much the clean ones of a class do. `probabilities`:
    whether the target's scores are some, or as hard to follow.
    """
    clean, labels = workshop.clean(task.shard)
    target = workshop.target(task.target)
    purifier = workshop.purifier(task.purifier, task.shard.dataset)
    purified = workshop.tensors(task.clean)["images"].to(clean.device)
    seed, few = task.clean.noise_seed, clean[:_IMAGES]
    part = Shard(task.shard.dataset, task.shard.start, task.shard.start + len(few))

    def one(x: Tensor, shard: Shard, *, gradients: bool = False) -> Tensor:
        return draw(purifier, x, seed, shard, decide=False, gradients=gradients)[0]

    with Stopwatch(workshop.device) as watch:
        together = one(few, part)
        singles = [Shard(part.dataset, index, index + 1) for index in part.indices]
        alone = torch.cat([one(x[None], shard) for x, shard in zip(few, singles, strict=True)])
        again = torch.stack([_apart(one(few, part), together) for _ in range(_CALLS)]).amax(dim=0)
        followed = one(few.clone().requires_grad_(), part, gradients=True)
        seeds = range(seed, seed + (_DRAWS if task.purifier.stochastic else 1))
        judged = torch.stack([draw(purifier, few, one, part, decide=False)[0] for one in seeds])
        attacked = _as_attacks_ask(purifier, few, seed, calls=max(2, len(seeds)))
        with torch.no_grad():
            scores, answers = target(clean), target(purified).argmax(dim=1)
    apart = {
        "batch_of_one": torch.maximum(_apart(alone, together), _apart(purified[: len(few)], together)),
        "repeat_call": again,
        "with_gradients": _apart(followed, together),
        "attack_call": _beyond_chance(judged, attacked),
    }
    meta = {
        "seconds": watch.seconds,
        "images": len(clean),
        "spread": _spread(purified, answers) / max(_spread(clean, labels), 1e-12),
        "probabilities": _are_probabilities(scores) or _differ_in_last_digits(scores),
    }
    workshop.put_tensors(task, {name: x.detach() for name, x in apart.items()}, meta)


def _as_attacks_ask(purifier: PurifierModule, x: Tensor, seed: int, calls: int) -> Tensor:
    """What comes out at each of several calls in a row (calls, B, C, H, W)."""
    purifier.noise = StreamNoise(seed)
    purifier.forget()
    with torch.enable_grad(), seeded(seed):
        return torch.stack([purifier(x.clone().requires_grad_()).detach() for _ in range(calls)])


def _beyond_chance(judged: Tensor, attacked: Tensor) -> Tensor:
    """How far the means of two sets of draws are apart (B,), less what means of so few may differ by."""
    apart = (judged.mean(dim=0) - attacked.mean(dim=0)).square()
    if len(judged) > 1:
        apart = apart - _CHANCE * 2 * judged.var(dim=0) / len(judged)
    return apart.flatten(1).mean(dim=1).clamp_min(0).sqrt()


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
    """Store how well the gradients that attacks follow tell where the pipeline goes, for a few images.

    `has_slope`: whether the pipeline has a slope, however it is computed: its finite differences of two
    sizes are alike; where small ones are not, as between the levels of a quantiser, larger ones may be.
    `cosine`: the best cosine that a surface's gradient has with it, over the root of that likeness, which is
    the most that any gradient could have.
    """
    clean, labels = workshop.clean(task.shard)
    x = _RIM + (1 - 2 * _RIM) * clean  # off the rim of the box, so that both sides of each image are in it
    there = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    followed = torch.zeros(len(x), device=x.device)
    with Stopwatch(workshop.device) as watch, seeded(task.seed_for("directions")), torch.no_grad():
        surfaces = [make_surface(spec, task.shard.dataset, workshop, 0) for spec in task.surfaces]
        for scale in _SCALES:
            even, along = _told(surfaces, x, labels, scale)
            # single images have one by chance, where the same few pixels cross a level at both steps
            if (even >= scale.even).float().mean() >= _HALF:
                there, followed = even >= scale.even, along / even.clamp_min(scale.even).sqrt()
                break
    found = {"has_slope": there, "cosine": followed}
    workshop.put_tensors(task, found, {"seconds": watch.seconds, "images": len(x)})


def _told(surfaces: list[MeteredSurface], x: Tensor, labels: Tensor, scale: _Scale) -> tuple[Tensor, Tensor]:
    """How alike the first surface's finite differences are, and the best cosine of a gradient with them."""
    generator = torch.Generator().manual_seed(0)
    ways = [_direction(x, scale.block, generator) for _ in range(scale.directions)]

    def loss(surface: MeteredSurface, images: Tensor) -> Tensor:
        if isinstance(surface, PipelineSurface):
            surface.purifier.noise = StreamNoise(0)  # the same draws each time
            surface.purifier.forget()
        return margin(surface(images), labels)

    def difference(step: float, way: Tensor) -> Tensor:
        ahead, behind = (loss(surfaces[0], (x + side * way).clamp(0, 1)) for side in (step, -step))
        return (ahead - behind) / step

    def along(surface: MeteredSurface) -> Tensor:
        followed = x.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(surface, followed).sum(), followed)
        return torch.stack([(gradient * way).flatten(1).sum(dim=1) for way in ways], dim=1)

    narrow, wide = (torch.stack([difference(step, way) for way in ways], dim=1) for step in scale.steps)
    cosines = torch.stack([cosine_similarity(along(surface), wide, dim=1) for surface in surfaces])
    return cosine_similarity(narrow, wide, dim=1), cosines.amax(dim=0)


def _direction(like: Tensor, block: int, generator: torch.Generator) -> Tensor:
    height, width = like.shape[2:]
    coarse = (*like.shape[:2], -(-height // block), -(-width // block))
    drawn = torch.randn(coarse, generator=generator).to(like.device)
    return drawn.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, :height, :width]


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
            images = ball.random_point(Noise(seed_from("random-search", sample), score.shard.indices))
            wrong = torch.ones_like(broken)
            for again in range(2 if score.purifier.stochastic else 1):
                seed = task.seed_for("random-search", sample, again)
                purified = draw(purifier, images, seed, score.shard, decide=False)[0]
                wrong &= target(purified).argmax(dim=1) != labels
            broken |= wrong
    found = {"misclassified": broken}
    workshop.put_tensors(task, found, {"seconds": watch.seconds, "images": len(clean)})
