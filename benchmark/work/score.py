"""Purifying images, and judging them on the real pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow
import torch
from torch import Tensor

from attacks.gradients import margin
from benchmark.errors import PluginError
from benchmark.metrics import norms, psnr, ssim
from benchmark.noise import Noise
from benchmark.purifier import PurifierModule
from benchmark.tasks import Candidate, Craft, Purify, Score, Shard
from benchmark.work.seeding import seeded
from benchmark.work.workshop import Stopwatch, Workshop

TOLERANCE = 1e-6
"""How far float32 rounding may carry an image out of its ball or of the box."""

_CLEARLY = 0.01
"""From which share of the spread of the scores on a verdict is no matter of rounding."""

_SAME = 1e-4
"""How far two purifications by a deterministic defense may differ."""

_FEW = 8


def purify(task: Purify, workshop: Workshop) -> None:
    """Store the purified images of a shard.

    Raises:
        PluginError: The defense broke its contract, or is random without saying so.
    """
    images = workshop.images(task.images, task.shard)
    purifier = workshop.purifier(task.purifier, task.shard.dataset)
    seed = task.noise_seed
    with Stopwatch(workshop.device) as watch:
        purified, decided = draw(purifier, images, seed, task.shard)
    if task.images is None and not task.purifier.stochastic:
        # Judged on one draw and attacked without expectation, hidden randomness reads as robustness.
        again, _ = draw(purifier, images, seed + 1, task.shard)
        if (again - purified).abs().max().item() > _SAME:
            raise PluginError(f"defense {task.label} is random but does not declare `stochastic = True`")
    if task.images is None and task.purifier.stochastic and _repeats(purifier, purified, images, task):
        # To call it random keeps attacks away that need the same answer twice.
        raise PluginError(f"defense {task.label} declares `stochastic = True`, but its draws are the same")
    if task.images is None and decided is not None:
        # Attacks run purify() alone: a defense that decides must not give the judge other images.
        attacked, _ = draw(purifier, images, seed, task.shard, decide=False)
        if (attacked - purified).abs().max().item() > _SAME:
            raise PluginError(f"defense {task.label}: purify_and_decide() gives other images than purify()")
    meta = {"seconds": watch.seconds, "images": len(images)}
    tensors = {"images": purified} | ({} if decided is None else {"decided": decided})
    workshop.put_tensors(task, tensors, meta)


def _repeats(purifier: PurifierModule, purified: Tensor, images: Tensor, task: Purify) -> bool:
    """Whether another draw is the same for each image; most defenses show in a few that it is not."""
    shard, seed = task.shard, task.noise_seed + 1
    for stop in (min(_FEW, len(images)), len(images)):
        part = Shard(shard.dataset, shard.start, shard.start + stop)
        if not torch.equal(draw(purifier, images[:stop], seed, part)[0], purified[:stop]):
            return False
    return True


def draw(
    purifier: PurifierModule,
    images: Tensor,
    seed: int,
    shard: Shard,
    *,
    decide: bool = True,
    gradients: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """One purification, and the defense's own labels where it decides any and is asked to.

    The same for the same seed, whatever generator the defense draws from. With `gradients` it is asked as
    attacks ask it.
    """
    purifier.noise = Noise(seed, shard.indices)
    purifier.forget()  # what an earlier purification saw must not help this one
    with torch.set_grad_enabled(gradients), seeded(seed):
        return purifier.purify_and_decide(images) if decide else (purifier(images), None)


def score(task: Score, workshop: Workshop) -> None:
    """Choose each image's worst candidate, judge it, and store one row per image."""
    clean, labels = workshop.clean(task.shard)
    target = workshop.target(task.target)
    purifier = workshop.purifier(task.purifier, task.shard.dataset)
    with torch.no_grad():
        chosen = _choose(task, workshop, target, clean, labels)
        purified_clean = workshop.tensors(task.clean)["images"].to(clean.device)
        judged, decided = chosen.purified, chosen.decided
        draws = [judged]
        if task.purifier.stochastic:
            # Chosen on one draw, judged on others: the luckiest of several draws is not an error.
            judged, decided = _fresh(task, purifier, chosen.images, "judge")
            more = (f"judge-{number}" for number in range(1, len(task.clean_judged)))
            draws = [judged, *(_fresh(task, purifier, chosen.images, draw)[0] for draw in more)]
        clean_scores, purified_scores = target(clean), target(purified_clean)
        kept_draws = [
            purified_scores
            if draw.key == task.clean.key
            else target(workshop.tensors(draw)["images"].to(clean.device))
            for draw in task.clean_judged
        ]
        adversarial, wrong = _verdict(task.judge, [target(draw).argmax(dim=1) for draw in draws], labels)
        kept, clean_wrong = _verdict(task.judge, [scores.argmax(dim=1) for scores in kept_draws], labels)
        rounded = (chosen.images * 255).round() / 255
        columns = _images(task, labels) | {
            "route": chosen.routes,
            "margin": chosen.margins,
            "target_clean": clean_scores.argmax(dim=1),
            "clean": kept,
            "clean_wrong": clean_wrong,
            "clean_margin": margin(purified_scores, labels),
            "baseline": _baseline(task, workshop, target, clean_scores, labels),
            "target_adversarial": target(chosen.images).argmax(dim=1),
            "adversarial": adversarial,
            "wrong": wrong,
            "loop_wrong": chosen.loop_wrong,
            "adversarial_8bit": target(_fresh(task, purifier, rounded, "8bit")[0]).argmax(dim=1),
            **norms(chosen.images, clean),
            "psnr_adv": psnr(chosen.images, clean),
            "ssim_adv": ssim(chosen.images, clean),
            "psnr": psnr(judged, clean),
            "ssim": ssim(judged, clean),
        }
        if decided is not None:
            columns["decided"] = decided
        if len(workshop.dataset(task.shard.dataset).class_names) >= 100:
            top5 = target(judged).topk(5, dim=1).indices
            columns["in_top5"] = (top5 == labels[:, None]).any(dim=1)
    rows = {name: _plain(values) for name, values in columns.items()}
    meta = {
        "images": len(clean),
        "costs": _costs(task, workshop),
        "routes": chosen.found,
        "contradicted": chosen.contradicted,
        "score_factors": _score_factors(task, workshop),
    }
    workshop.put_table(task, pyarrow.table(rows), meta)


def _verdict(judge: str, predictions: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """The class that counts for each image (B,), and how wrong it is (B,): a share where means are judged."""
    drawn = torch.stack(predictions)
    wrong = drawn != labels
    first = drawn[0]
    if judge.startswith("mean"):
        return first, wrong.float().mean(dim=0)
    if judge.startswith("worst"):
        place = wrong.float().argmax(dim=0)  # the first that is wrong, or the first
        first = drawn.gather(0, place[None])[0]
    elif judge.startswith("majority"):
        first = drawn.mode(dim=0).values
    return first, (first != labels).float()


def _baseline(
    task: Score, workshop: Workshop, target: torch.nn.Module, clean_scores: Tensor, labels: Tensor
) -> Tensor:
    """What the undefended target says of each image's worst one of those made against it (B,)."""
    predicted, worst = clean_scores.argmax(dim=1), margin(clean_scores, labels)
    for number, craft in enumerate(task.baseline):
        logits = target(workshop.images(craft, task.shard))
        found = margin(logits, labels)
        better = (found > worst) | (number == 0)
        predicted = torch.where(better, logits.argmax(dim=1), predicted)
        worst = torch.where(better, found, worst)
    return predicted


def _costs(task: Score, workshop: Workshop) -> dict[str, float]:
    """Per image: passes and time of all crafts behind the candidates, and of one purification."""
    counts = ("forwards", "backwards", "purifies", "blind")
    costs = dict.fromkeys(("craft_ms", *counts), 0.0)
    for craft in {c.craft.key: c.craft for c in task.candidates if isinstance(c.craft, Craft)}.values():
        meta = workshop.meta(craft)
        costs["craft_ms"] += 1000 * meta["seconds"] / meta["images"]
        for name in counts:
            costs[name] += meta[name]
    clean = workshop.meta(task.clean)
    return costs | {"purify_ms": 1000 * clean["seconds"] / clean["images"]}


def _score_factors(task: Score, workshop: Workshop) -> dict[str, float]:
    """By route: what the scores that its attack followed were multiplied by."""
    crafts = {c.route: c.craft for c in task.candidates if isinstance(c.craft, Craft)}
    return {route: workshop.meta(craft)["score_factor"] for route, craft in crafts.items()}


@dataclass
class _Chosen:
    """Each image's worst candidate; `margins` are those it was chosen by, `sizes` the norms of those wrong.

    `loop_wrong` are those that a route with the defense in the loop was wrong about. `found` counts the
    errors of each route; `contradicted` the images which the very pipeline was wrong about when an attack
    asked it, and right when it was judged.
    """

    images: Tensor
    purified: Tensor
    decided: Tensor | None
    routes: list[str]
    margins: Tensor
    loop_wrong: Tensor
    sizes: Tensor
    found: dict[str, int] = field(default_factory=dict)
    contradicted: int = 0

    def nearer(self, margins: Tensor, sizes: Tensor) -> Tensor:
        """Which images to take of an attack that minimises the norm: of those that are wrong the nearest."""
        wrong = margins > 0
        taken = wrong & (sizes < self.sizes)
        self.sizes = torch.where(taken, sizes, self.sizes)
        return taken | (~wrong & self.sizes.isinf() & (margins > self.margins))


def _choose(
    task: Score, workshop: Workshop, target: torch.nn.Module, clean: Tensor, labels: Tensor
) -> _Chosen:
    """Each image's worst candidate: the one on which the pipeline's margin for the truth is smallest.

    Of an attack that minimises the norm, the nearest that is wrong.
    """
    nothing = torch.full((len(clean),), float("-inf"), device=clean.device)
    decided = torch.zeros_like(labels) if task.purifier.decides_label else None
    nowhere = torch.zeros_like(labels, dtype=torch.bool)
    chosen = _Chosen(clean.clone(), clean.clone(), decided, [""] * len(clean), nothing, nowhere, -nothing)
    for candidate in task.candidates:
        images = workshop.images(candidate.craft, task.shard)
        _check_ball(task, candidate, images, clean)
        drawn = workshop.tensors(candidate.purify)
        purified = drawn["images"].to(clean.device)
        logits = target(purified)
        if not torch.isfinite(logits).all():
            raise PluginError(f"target {task.target.label} returned logits that are not finite")
        found = margin(logits, labels)
        if isinstance(candidate.craft, Craft) and candidate.craft.surface.purifier is not None:
            chosen.loop_wrong |= found > 0
        chosen.found[candidate.route] = int((found > 0).sum())
        if isinstance(candidate.craft, Craft) and _is_the_pipeline(task, candidate.craft):
            lead = workshop.tensors(candidate.craft)["relative_margin"].to(found.device)
            chosen.contradicted += int(((lead > _CLEARLY) & (found <= 0)).sum())
        better = found > chosen.margins
        if task.attack.norm is not None and task.attack.eps is None:
            better = chosen.nearer(found, norms(images, clean)[task.attack.norm])
        chosen.margins = torch.where(better, found, chosen.margins)
        mask = better[:, None, None, None]
        chosen.images = torch.where(mask, images, chosen.images)
        chosen.purified = torch.where(mask, purified, chosen.purified)
        if chosen.decided is not None:
            chosen.decided = torch.where(better, drawn["decided"].to(clean.device), chosen.decided)
        chosen.routes = [
            candidate.route if new else old for new, old in zip(better.tolist(), chosen.routes, strict=True)
        ]
    return chosen


def _is_the_pipeline(task: Score, craft: Craft) -> bool:
    """Whether the craft was run on what judges it, so that both must say the same of an image."""
    surface = craft.surface
    same = surface.purifier is not None and surface.purifier.key == task.purifier.key
    return surface.own and same and not task.purifier.stochastic


def _check_ball(task: Score, candidate: Candidate, images: Tensor, clean: Tensor) -> None:
    """Measured, not claimed: an attack that leaves the box or its ball fails the cell.

    Raises:
        PluginError: It did; says by how much.
    """
    low, high = images.min().item(), images.max().item()
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise PluginError(
            f"attack {task.attack.name} ({candidate.route}) left the box: [{low:.6g}, {high:.6g}]"
        )
    if task.attack.norm is None or task.attack.eps is None:
        return
    size = norms(images, clean)[task.attack.norm].max().item()
    if size > task.attack.eps + TOLERANCE:
        raise PluginError(
            f"attack {task.attack.name} ({candidate.route}) left the ball: "
            f"{task.attack.norm} {size:.6g} > {task.attack.eps:g}"
        )


def _fresh(
    task: Score, purifier: PurifierModule, images: Tensor, number: str
) -> tuple[Tensor, Tensor | None]:
    """One more draw: the same noise as that draw of the clean images."""
    seed = task.purifier.seed_for("purify", task.shard.dataset, number)
    return draw(purifier, images, seed, task.shard)


def _images(task: Score, labels: Tensor) -> dict[str, Tensor | list[str]]:
    return {"index": torch.arange(task.shard.start, task.shard.stop), "label": labels}


def _plain(values: Tensor | list[str]) -> list[object]:
    return values.cpu().tolist() if isinstance(values, Tensor) else list(values)
