"""Purifying images, and judging them on the real pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow
import torch
from torch import Tensor

from attacks.gradients import margin
from benchmark import metrics
from benchmark.errors import PluginError
from benchmark.keys import seed_from
from benchmark.noise import Noise
from benchmark.purifier import PurifierModule
from benchmark.tasks import Candidate, Purify, Score
from benchmark.work.workshop import Stopwatch, Workshop, address

TOLERANCE = 1e-6
"""How far float32 rounding may carry an image out of its ball or of the box."""


def purify(task: Purify, workshop: Workshop) -> None:
    """Store the purified images of a shard."""
    images = workshop.images(task.images, task.shard)
    purifier = workshop.purifier(task.purifier, task.shard.dataset)
    purifier.noise = Noise(_purify_seed(task), task.shard.indices)
    with torch.no_grad(), Stopwatch(workshop.device) as watch:
        purified = purifier(images)
    meta = {"seconds": watch.seconds, "images": len(images), "task": task.content()}
    workshop.store.put_tensors(address(task), {"images": purified}, meta)


def _purify_seed(task: Purify) -> int:
    """The same for every shard: noise is indexed by image."""
    images = task.images.noise_seed if task.images else "clean"
    return seed_from("purify", task.purifier.key, images)


def score(task: Score, workshop: Workshop) -> None:
    """Choose each image's worst candidate, judge it, and store one row per image."""
    clean, labels = workshop.clean(task.shard)
    target = workshop.target(task.target)
    purifier = workshop.purifier(task.purifier, task.shard.dataset)
    with torch.no_grad():
        chosen = _choose(task, workshop, target, clean, labels)
        judged = chosen.purified
        if task.purifier.defense.stochastic:
            # Chosen on one draw, judged on another: the luckiest of several draws is not an error.
            judged = _fresh(task, purifier, chosen.images, "judge")
        rounded = (chosen.images * 255).round() / 255
        columns = _images(task, labels) | {
            "route": chosen.routes,
            "target_clean": target(clean).argmax(dim=1),
            "clean": target(workshop.tensors(task.clean)["images"].to(clean.device)).argmax(dim=1),
            "baseline": target(workshop.images(task.baseline, task.shard)).argmax(dim=1),
            "target_adversarial": target(chosen.images).argmax(dim=1),
            "adversarial": target(judged).argmax(dim=1),
            "adversarial_8bit": target(_fresh(task, purifier, rounded, "8bit")).argmax(dim=1),
            **metrics.norms(chosen.images, clean),
            "psnr_adv": metrics.psnr(chosen.images, clean),
            "ssim_adv": metrics.ssim(chosen.images, clean),
            "psnr": metrics.psnr(judged, clean),
            "ssim": metrics.ssim(judged, clean),
        }
        if len(workshop.dataset(task.shard.dataset).class_names) >= 100:
            top5 = target(judged).topk(5, dim=1).indices
            columns["in_top5"] = (top5 == labels[:, None]).any(dim=1)
    rows = {name: _plain(values) for name, values in columns.items()}
    workshop.store.put_table(
        address(task), pyarrow.table(rows), {"images": len(clean), "task": task.content()}
    )


@dataclass
class _Chosen:
    images: Tensor
    purified: Tensor
    routes: list[str]


def _choose(
    task: Score, workshop: Workshop, target: torch.nn.Module, clean: Tensor, labels: Tensor
) -> _Chosen:
    """Each image's worst candidate: the one on which the pipeline's margin for the truth is smallest."""
    worst = torch.full((len(clean),), float("-inf"), device=clean.device)
    chosen = _Chosen(clean.clone(), clean.clone(), [""] * len(clean))
    for candidate in task.candidates:
        images = workshop.images(candidate.craft, task.shard)
        _check_ball(task, candidate, images, clean)
        purified = workshop.tensors(candidate.purify)["images"].to(clean.device)
        logits = target(purified)
        if not torch.isfinite(logits).all():
            raise PluginError(f"target {task.target.label} returned logits that are not finite")
        found = margin(logits, labels)
        better = found > worst
        worst = torch.where(better, found, worst)
        mask = better[:, None, None, None]
        chosen.images = torch.where(mask, images, chosen.images)
        chosen.purified = torch.where(mask, purified, chosen.purified)
        chosen.routes = [
            candidate.route if new else old for new, old in zip(better.tolist(), chosen.routes, strict=True)
        ]
    return chosen


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
    size = metrics.norms(images, clean)[task.attack.norm].max().item()
    if size > task.attack.eps + TOLERANCE:
        raise PluginError(
            f"attack {task.attack.name} ({candidate.route}) left the ball: "
            f"{task.attack.norm} {size:.6g} > {task.attack.eps:g}"
        )


def _fresh(task: Score, purifier: PurifierModule, images: Tensor, purpose: str) -> Tensor:
    purifier.noise = Noise(seed_from(purpose, task.purifier.key, task.attack.content), task.shard.indices)
    return purifier(images)  # type: ignore[no-any-return]


def _images(task: Score, labels: Tensor) -> dict[str, Tensor | list[str]]:
    return {"index": torch.arange(task.shard.start, task.shard.stop), "label": labels}


def _plain(values: Tensor | list[str]) -> list[object]:
    return values.cpu().tolist() if isinstance(values, Tensor) else list(values)
