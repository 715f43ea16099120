"""Checks that look for defects of a pipeline which attacks would not reveal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmark.api.balls import Ball
from benchmark.api.losses import margin
from benchmark.api.noise import Noise, StreamNoise
from benchmark.execution.context import ExecutionContext
from benchmark.execution.score import purify_once
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.execution.surfaces import MeteredSurface, PipelineSurface, make_surface
from benchmark.plan.tasks import ConsistencyCheck, FiniteDifferenceCheck, RandomSearch, Shard
from benchmark.storage.keys import seed_from

_IMAGES = 4
_CALLS = 3
_DRAWS = 5
_CHANCE = 12
"""Squared difference between two means of five draws that is still chance, in squared standard errors."""
_LAST_DIGITS = 1e-3
_BORDER = 0.08
_HALF = 0.5


@dataclass(frozen=True)
class _Scale:
    """Finite differences along random directions; the pipeline has a slope if those of two sizes are similar.

    Attributes:
        steps: Mean change of a pixel, for the two sizes.
        min_similarity: The cosine from which on the differences count as similar.
        block: Side of the squares of pixels that change together along a direction.
    """

    steps: tuple[float, float]
    directions: int
    min_similarity: float
    block: int = 1


_SCALES = (
    _Scale((0.005, 0.015), 12, 0.9),  # above a level of 8 bits, so that rounding to 8 bits hides nothing
    _Scale((0.1, 0.2), 24, 0.65),  # above a level of 3 bits
    _Scale((0.1, 0.2), 24, 0.65, block=4),  # above a level of a thumbnail of 2 bits, whose pixels are means
)
"""The check uses the first scale at which half of the images have a slope."""


def check_consistency(task: ConsistencyCheck, context: ExecutionContext) -> None:
    """Store the differences between outputs of a pipeline that should be identical.

    The tensors hold the mean difference of the pixels of a few purified images:
        `batch_of_one`: Purified alone instead of in a batch.
        `repeat_call`: Purified again.
        `with_gradients`: Purified with gradients enabled.
        `attack_call`: Purified as in an attack: with one stream of noise, and with the state that the
            last call left behind.

    The metadata hold:
        `spread`: The variance within a class of the purified images, by predicted class, relative to that
            of the clean images.
        `probabilities`: Whether the target's scores are probabilities, or as hard to follow.
    """
    clean, labels = context.clean(task.shard)
    target = context.target(task.target)
    purifier = context.purifier(task.purifier, task.shard.dataset)
    purified = context.tensors(task.clean)["images"].to(clean.device)
    seed, few = task.clean.noise_seed, clean[:_IMAGES]
    part = Shard(task.shard.dataset, task.shard.start, task.shard.start + len(few))

    def purify(x: Tensor, shard: Shard, seed: int = seed, *, gradients: bool = False) -> Tensor:
        return purify_once(purifier, x, seed, shard, decide=False, gradients=gradients)[0]

    with Stopwatch(context.device) as watch:
        batch = purify(few, part)
        singles = [Shard(part.dataset, index, index + 1) for index in part.indices]
        alone = torch.cat([purify(x[None], shard) for x, shard in zip(few, singles, strict=True)])
        repeats = [_difference(purify(few, part), batch) for _ in range(_CALLS)]
        with_gradients = purify(few.clone().requires_grad_(), part, gradients=True)
        seeds = range(seed, seed + (_DRAWS if task.purifier.stochastic else 1))
        judged = torch.stack([purify(few, part, draw_seed) for draw_seed in seeds])
        purifier.reset(StreamNoise(seed))
        with torch.enable_grad(), seeded(seed):
            calls = [purifier(few.clone().requires_grad_()).detach() for _ in range(max(2, len(seeds)))]
        with torch.no_grad():
            scores, classes = target(clean), target(purified).argmax(dim=1)
    differences = {
        "batch_of_one": torch.maximum(_difference(alone, batch), _difference(purified[: len(few)], batch)),
        "repeat_call": torch.stack(repeats).amax(dim=0),
        "with_gradients": _difference(with_gradients, batch),
        "attack_call": _difference_beyond_chance(judged, torch.stack(calls)),
    }
    meta = {
        "seconds": watch.seconds,
        "images": len(clean),
        "spread": _class_variance(purified, classes) / max(_class_variance(clean, labels), 1e-12),
        "probabilities": _are_probabilities(scores),
    }
    context.put_tensors(task, {name: x.detach() for name, x in differences.items()}, meta)


def _difference_beyond_chance(draws: Tensor, others: Tensor) -> Tensor:
    """The difference between the means of two sets of draws (B,), minus what chance explains."""
    squares = (draws.mean(dim=0) - others.mean(dim=0)).square()
    if len(draws) > 1:
        squares = squares - _CHANCE * 2 * draws.var(dim=0) / len(draws)
    return squares.flatten(1).mean(dim=1).clamp_min(0).sqrt()


def _are_probabilities(scores: Tensor) -> bool:
    """Also true if the scores of most images are equal up to about the precision of float32."""
    if (scores >= 0).all() and (scores <= 1).all() and ((scores.sum(dim=1) - 1).abs() < 1e-4).all():
        return True
    spread = scores.amax(dim=1) - scores.amin(dim=1)
    return bool((spread < _LAST_DIGITS * scores.abs().amax(dim=1)).float().mean() > _HALF)


def _difference(images: Tensor, others: Tensor) -> Tensor:
    return (images - others).detach().abs().flatten(1).mean(dim=1)


def _class_variance(images: Tensor, labels: Tensor) -> float:
    """The mean variance of pixels within a class."""
    groups = [images[labels == label] for label in labels.unique()]  # type: ignore[no-untyped-call]
    variances = [group.var(dim=0).mean() for group in groups if len(group) > 1]
    return float(torch.stack(variances).mean()) if variances else float("nan")


def check_finite_differences(task: FiniteDifferenceCheck, context: ExecutionContext) -> None:
    """Store how well the gradients that attacks follow agree with finite differences, for a few images.

    The tensors are:
        `has_slope`: Whether the pipeline has a slope, whatever its gradient is: finite differences of two
            sizes are similar. Larger sizes may be similar if small ones are not, as between the levels of
            a quantiser.
        `cosine`: The best cosine of a surface's gradient with the differences, divided by the square root
            of their similarity, which is the largest cosine that any gradient could have.
    """
    clean, labels = context.clean(task.shard)
    x = _BORDER + (1 - 2 * _BORDER) * clean  # off the border of the box, so that both sides are inside
    has_slope = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    cosine = torch.zeros(len(x), device=x.device)
    with Stopwatch(context.device) as watch, seeded(task.seed_for("directions")), torch.no_grad():
        surfaces = [make_surface(spec, task.shard.dataset, context, 0) for spec in task.surfaces]
        for scale in _SCALES:
            similarity, best_cosine = _compare_gradients(surfaces, x, labels, scale)
            similar = similarity >= scale.min_similarity
            # single images are similar by chance if the same few pixels cross a level at both steps
            if similar.float().mean() >= _HALF:
                has_slope, cosine = similar, best_cosine / similarity.clamp_min(scale.min_similarity).sqrt()
                break
    tensors = {"has_slope": has_slope, "cosine": cosine}
    context.put_tensors(task, tensors, {"seconds": watch.seconds, "images": len(x)})


def _compare_gradients(
    surfaces: list[MeteredSurface], x: Tensor, labels: Tensor, scale: _Scale
) -> tuple[Tensor, Tensor]:
    """Finite differences of the first surface: the cosine between those of both sizes (B,).

    Also the best cosine (B,) of a gradient of the surfaces with the larger differences.
    """
    generator = torch.Generator().manual_seed(0)
    directions = [_random_direction(x, scale.block, generator) for _ in range(scale.directions)]

    def loss(surface: MeteredSurface, images: Tensor) -> Tensor:
        if isinstance(surface, PipelineSurface):
            surface.purifier.reset(StreamNoise(0))  # the same draws in each call
        return margin(surface(images), labels)

    def finite_difference(step: float, direction: Tensor) -> Tensor:
        ahead, behind = (loss(surfaces[0], (x + side * direction).clamp(0, 1)) for side in (step, -step))
        return (ahead - behind) / step

    def directional_derivatives(surface: MeteredSurface) -> Tensor:
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(surface, leaf).sum(), leaf)
        return torch.stack([(gradient * direction).flatten(1).sum(dim=1) for direction in directions], dim=1)

    small, large = (
        torch.stack([finite_difference(step, direction) for direction in directions], dim=1)
        for step in scale.steps
    )
    cosines = [cosine_similarity(directional_derivatives(surface), large, dim=1) for surface in surfaces]
    return cosine_similarity(small, large, dim=1), torch.stack(cosines).amax(dim=0)


def _random_direction(like: Tensor, block: int, generator: torch.Generator) -> Tensor:
    height, width = like.shape[2:]
    shape = (*like.shape[:2], -(-height // block), -(-width // block))
    blocks = torch.randn(shape, generator=generator).to(like.device)
    return blocks.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, :height, :width]


def search_random_points(task: RandomSearch, context: ExecutionContext) -> None:
    """Store which images are misclassified at random points of their ball.

    If the purifier is random, a point counts only if both of two draws are misclassified.
    """
    score = task.score
    clean, labels = context.clean(score.shard)
    target = context.target(score.target)
    purifier = context.purifier(score.purifier, score.shard.dataset)
    norm, eps = score.attack.norm, score.attack.eps
    assert norm in ("linf", "l2")
    assert eps is not None
    ball = Ball(clean, eps, norm)
    misclassified = torch.zeros_like(labels, dtype=torch.bool)
    with Stopwatch(context.device) as watch, torch.no_grad():
        for sample in range(task.samples):
            images = ball.random_point(Noise(seed_from("random-search", sample), score.shard.indices))
            wrong = torch.ones_like(misclassified)
            for draw in range(2 if score.purifier.stochastic else 1):
                seed = task.seed_for("random-search", sample, draw)
                purified = purify_once(purifier, images, seed, score.shard, decide=False)[0]
                wrong &= target(purified).argmax(dim=1) != labels
            misclassified |= wrong
    meta = {"seconds": watch.seconds, "images": len(clean)}
    context.put_tensors(task, {"misclassified": misclassified}, meta)
