"""Purifying images, and judging adversarial images on the real pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow
import torch
from torch import Tensor

from benchmark.api.losses import margin
from benchmark.api.noise import Noise
from benchmark.errors import PluginError
from benchmark.execution.context import ExecutionContext
from benchmark.execution.judges import judge
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.metrics import TOLERANCE
from benchmark.metrics.image_quality import norms, psnr, ssim
from benchmark.plan.tasks import Candidate, Craft, Purify, Score, Shard

_MIN_RELATIVE_MARGIN = 0.01
"""Smallest relative margin of an error that is not a matter of rounding."""

_SAME = 1e-4
"""Largest difference between two purifications by a deterministic defense."""

_FEW = 8


def purify(task: Purify, context: ExecutionContext) -> None:
    """Store the purified images of a shard."""
    images = context.images(task.images, task.shard)
    purifier = context.purifier(task.purifier, task.shard.dataset)
    with Stopwatch(context.device) as watch:
        purified, decided = purify_once(purifier, images, task.noise_seed, task.shard)
    if task.images is None:
        _check_declarations(task, purifier, images, purified, decides=decided is not None)
    tensors = {"images": purified} | ({} if decided is None else {"decided": decided})
    context.put_tensors(task, tensors, {"seconds": watch.seconds, "images": len(images)})


def _check_declarations(
    task: Purify, purifier: PurifierModule, images: Tensor, purified: Tensor, *, decides: bool
) -> None:
    """Check on clean images that the defense is as random as declared and shows attacks the same images."""
    seed = task.noise_seed
    if not task.purifier.stochastic:
        # The harness judges it on one draw and attacks it without EOT: hidden randomness would look robust.
        repeated, _ = purify_once(purifier, images, seed + 1, task.shard)
        if _differ(repeated, purified):
            raise PluginError(f"defense {task.label} is random but does not declare `stochastic = True`")
    elif _draws_are_equal(purifier, purified, images, task):
        # A wrong declaration would exclude attacks that need a deterministic surface.
        raise PluginError(f"defense {task.label} declares `stochastic = True`, but its draws are the same")
    if decides:
        # Attacks call purify() only: a defense that decides must not show other images to the judge.
        attacked, _ = purify_once(purifier, images, seed, task.shard, decide=False)
        if _differ(attacked, purified):
            raise PluginError(f"defense {task.label}: purify_and_decide() gives other images than purify()")


def _differ(images: Tensor, others: Tensor) -> bool:
    return (images - others).abs().max().item() > _SAME


def _draws_are_equal(purifier: PurifierModule, purified: Tensor, images: Tensor, task: Purify) -> bool:
    """Whether another draw is the same for each image; for most defenses a few images show a difference."""
    shard, seed = task.shard, task.noise_seed + 1
    for stop in (min(_FEW, len(images)), len(images)):
        part = Shard(shard.dataset, shard.start, shard.start + stop)
        if not torch.equal(purify_once(purifier, images[:stop], seed, part)[0], purified[:stop]):
            return False
    return True


def purify_once(
    purifier: PurifierModule,
    images: Tensor,
    seed: int,
    shard: Shard,
    *,
    decide: bool = True,
    gradients: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """One draw of the purified images, and with `decide` the labels of a defense that decides labels.

    Equal seeds give equal images, whatever earlier calls left and whatever generator the defense uses.
    `gradients` enables gradients, as in attacks.
    """
    purifier.reset(Noise(seed, shard.indices))
    with torch.set_grad_enabled(gradients), seeded(seed):
        return purifier.purify_and_decide(images) if decide else (purifier(images), None)


def score(task: Score, context: ExecutionContext) -> None:
    """Select each image's worst candidate, judge it, and store one row per image."""
    clean, labels = context.clean(task.shard)
    target = context.target(task.target)
    purifier = context.purifier(task.purifier, task.shard.dataset)
    with torch.no_grad():
        worst = _select_worst(task, context, clean, labels)
        purified_clean = context.tensors(task.clean)["images"].to(clean.device)
        purified, decided = worst.purified, worst.decided
        draws = [purified]
        if task.purifier.stochastic:
            # Selected on one draw, judged on others: the maximum over draws is biased upwards.
            purified, decided = _purify_draw(task, purifier, worst.images, "judge")
            names = (f"judge-{number}" for number in range(1, len(task.clean_judged)))
            draws = [purified, *(_purify_draw(task, purifier, worst.images, name)[0] for name in names)]
        clean_scores = context.logits(task.target, None, task.shard, clean)
        purified_scores = context.logits(task.target, task.clean, task.shard, purified_clean)
        clean_draws = [_logits_of(draw, task, context) for draw in task.clean_judged]
        logits = _known_logits(task, context, worst)
        run = target if task.purifier.stochastic else logits  # new draws are seen once
        adversarial, wrong = judge(task.judge, [run(draw).argmax(dim=1) for draw in draws], labels)
        clean_class, clean_wrong = judge(task.judge, [s.argmax(dim=1) for s in clean_draws], labels)
        rounded = (worst.images * 255).round() / 255
        columns: dict[str, Tensor | list[str]] = {
            "index": torch.arange(task.shard.start, task.shard.stop),
            "label": labels,
            "route": worst.routes,
            "margin": worst.margins,
            "target_clean": clean_scores.argmax(dim=1),
            "clean": clean_class,
            "clean_wrong": clean_wrong,
            "clean_margin": margin(purified_scores, labels),
            "baseline": _baseline(task, context, clean_scores, labels),
            "target_adversarial": logits(worst.images).argmax(dim=1),
            "adversarial": adversarial,
            "wrong": wrong,
            "loop_wrong": worst.loop_wrong,
            "adversarial_8bit": logits(_purify_draw(task, purifier, rounded, "8bit")[0]).argmax(dim=1),
            **norms(worst.images, clean),
            "psnr_adv": psnr(worst.images, clean),
            "ssim_adv": ssim(worst.images, clean),
        }
        for name, metric in (("psnr", psnr), ("ssim", ssim)):
            same = torch.equal(purified, worst.images)
            columns[name] = columns[f"{name}_adv"] if same else metric(purified, clean)
        if decided is not None:
            columns["decided"] = decided
        if len(context.dataset(task.shard.dataset).class_names) >= 100:
            top5 = logits(purified).topk(5, dim=1).indices
            columns["in_top5"] = (top5 == labels[:, None]).any(dim=1)
    rows = {name: x.cpu().tolist() if isinstance(x, Tensor) else x for name, x in columns.items()}
    context.put_table(task, pyarrow.table(rows), _metadata(task, context, worst))


class _Logits:
    """The logits of a target; images that it has seen are not run again. It is for a few batches."""

    def __init__(self, target: torch.nn.Module) -> None:
        self._target = target
        self._known: list[tuple[Tensor, Tensor]] = []

    def add(self, images: Tensor, logits: Tensor) -> None:
        self._known.append((images, logits))

    def __call__(self, images: Tensor) -> Tensor:
        for seen, logits in self._known:
            if torch.equal(seen, images):
                return logits
        self.add(images, self._target(images))
        return self._known[-1][1]


def _known_logits(task: Score, context: ExecutionContext, worst: _WorstCandidates) -> _Logits:
    """The logits of the target, with those of the worst candidate if it is the same for all images."""
    logits = _Logits(context.target(task.target))
    if (only := worst.only) is not None:
        logits.add(worst.images, context.logits(task.target, only.craft, task.shard, worst.images))
        logits.add(worst.purified, context.logits(task.target, only.purify, task.shard, worst.purified))
    return logits


def _logits_of(stored: Purify, task: Score, context: ExecutionContext) -> Tensor:
    """The logits of the target of a score on stored purified images."""
    images = context.tensors(stored)["images"].to(context.device)
    return context.logits(task.target, stored, task.shard, images)


def _baseline(task: Score, context: ExecutionContext, clean_scores: Tensor, labels: Tensor) -> Tensor:
    """The undefended target's class (B,) of the worst image of each row among those made against it."""
    classes, worst = clean_scores.argmax(dim=1), margin(clean_scores, labels)
    for number, craft in enumerate(task.baseline):
        images = context.images(craft, task.shard)
        logits = context.logits(task.target, craft, task.shard, images)
        margins = margin(logits, labels)
        worse = (margins > worst) | (number == 0)
        classes = torch.where(worse, logits.argmax(dim=1), classes)
        worst = torch.where(worse, margins, worst)
    return classes


@dataclass
class _WorstCandidates:
    """The worst candidate of each image so far.

    Attributes:
        purified: The purified adversarial images.
        decided: The labels of a defense that decides labels.
        margins: The margins by which the images were selected.
        loop_wrong: Images that a route with the defense in the loop made the pipeline misclassify.
        distances: Norms of the selected changes that are misclassified, else infinity.
        errors: Number of misclassified images by route.
        contradicted: Number of images that the pipeline misclassified when an attack called it, but not
            when the judge did.
        only: The candidate that all images are from; None if they are from several.
    """

    images: Tensor
    purified: Tensor
    decided: Tensor | None
    routes: list[str]
    margins: Tensor
    loop_wrong: Tensor
    distances: Tensor
    errors: dict[str, int] = field(default_factory=dict)
    contradicted: int = 0
    only: Candidate | None = None

    def select_nearest(self, margins: Tensor, distances: Tensor) -> Tensor:
        """For an attack that minimises the norm: select the nearest misclassified image of each row (B,)."""
        wrong = margins > 0
        nearer = wrong & (distances < self.distances)
        self.distances = torch.where(nearer, distances, self.distances)
        return nearer | (~wrong & self.distances.isinf() & (margins > self.margins))


def _select_worst(task: Score, context: ExecutionContext, clean: Tensor, labels: Tensor) -> _WorstCandidates:
    """Each image's worst candidate: the one with the largest margin of a wrong class over the true class.

    For an attack that minimises the norm, the nearest misclassified candidate.
    """
    lowest = torch.full((len(clean),), float("-inf"), device=clean.device)
    worst = _WorstCandidates(
        images=clean.clone(),
        purified=clean.clone(),
        decided=torch.zeros_like(labels) if task.purifier.decides_label else None,
        routes=[""] * len(clean),
        margins=lowest,
        loop_wrong=torch.zeros_like(labels, dtype=torch.bool),
        distances=-lowest,
    )
    for candidate in task.candidates:
        images = context.images(candidate.craft, task.shard)
        _check_ball(task, candidate, images, clean)
        stored = context.tensors(candidate.purify)
        purified = stored["images"].to(clean.device)
        logits = context.logits(task.target, candidate.purify, task.shard, purified)
        if not torch.isfinite(logits).all():
            raise PluginError(f"target {task.target.label} returned logits that are not finite")
        margins = margin(logits, labels)
        worst.errors[candidate.route] = int((margins > 0).sum())
        if isinstance(candidate.craft, Craft) and candidate.craft.surface.purifier is not None:
            worst.loop_wrong |= margins > 0
        if isinstance(candidate.craft, Craft) and _attacks_the_judged_pipeline(task, candidate.craft):
            attacked = context.tensors(candidate.craft)["relative_margin"].to(clean.device)
            worst.contradicted += int(((attacked > _MIN_RELATIVE_MARGIN) & (margins <= 0)).sum())
        worse = margins > worst.margins
        if task.attack.norm is not None and task.attack.eps is None:
            worse = worst.select_nearest(margins, norms(images, clean)[task.attack.norm])
        if worse.any():
            worst.only = candidate if worse.all() else None
        worst.margins = torch.where(worse, margins, worst.margins)
        mask = worse[:, None, None, None]
        worst.images = torch.where(mask, images, worst.images)
        worst.purified = torch.where(mask, purified, worst.purified)
        if worst.decided is not None:
            worst.decided = torch.where(worse, stored["decided"].to(clean.device), worst.decided)
        for row in worse.nonzero().flatten().tolist():
            worst.routes[row] = candidate.route
    return worst


def _attacks_the_judged_pipeline(task: Score, craft: Craft) -> bool:
    """Whether attack and judge call the same deterministic pipeline, so that their classes must agree."""
    surface = craft.surface
    same = surface.purifier is not None and surface.purifier.key == task.purifier.key
    return surface.is_pipeline and same and not task.purifier.stochastic


def _check_ball(task: Score, candidate: Candidate, images: Tensor, clean: Tensor) -> None:
    """Check by measurement that an attack stayed in the box and in its ball."""
    attack = f"attack {task.attack.name} ({candidate.route})"
    low, high = images.min().item(), images.max().item()
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise PluginError(f"{attack} left the box: [{low:.6g}, {high:.6g}]")
    norm, eps = task.attack.norm, task.attack.eps
    if norm is not None and eps is not None:
        size = norms(images, clean)[norm].max().item()
        if size > eps + TOLERANCE:
            raise PluginError(f"{attack} left the ball: {norm} {size:.6g} > {eps:g}")


def _purify_draw(
    task: Score, purifier: PurifierModule, images: Tensor, name: str
) -> tuple[Tensor, Tensor | None]:
    """A named draw: the same noise as in the draw of that name of the clean images."""
    seed = task.purifier.seed_for("purify", task.shard.dataset, name)
    return purify_once(purifier, images, seed, task.shard)


def _metadata(task: Score, context: ExecutionContext, worst: _WorstCandidates) -> dict[str, object]:
    """Costs per image, summed over all attacks of the cell, and facts on the routes."""
    crafts = [(c.route, c.craft) for c in task.candidates if isinstance(c.craft, Craft)]
    counts = ("forwards", "backwards", "purifies", "blind")
    costs = dict.fromkeys(("craft_ms", *counts), 0.0)
    for craft in {craft.key: craft for _, craft in crafts}.values():
        meta = context.meta(craft)
        costs["craft_ms"] += 1000 * meta["seconds"] / meta["images"]
        for name in counts:
            costs[name] += meta[name]
    clean = context.meta(task.clean)
    costs["purify_ms"] = 1000 * clean["seconds"] / clean["images"]
    return {
        "images": len(task.shard.indices),
        "costs": costs,
        "routes": worst.errors,
        "contradicted": worst.contradicted,
        "score_factors": {route: context.meta(craft)["score_factor"] for route, craft in crafts},
    }
