"""Finding the number of steps at which an attack converges, and running the attack with that number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from benchmark.api.attack import Attack
from benchmark.api.losses import margin
from benchmark.api.noise import Noise
from benchmark.errors import BudgetError, PluginError, format_exception
from benchmark.execution.context import ExecutionContext, LostResultError
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.execution.surfaces import Meter, make_surface
from benchmark.metrics.statistics import mcnemar_less
from benchmark.plan.tasks import ConvergenceSearch, Craft, SurfaceSpec
from benchmark.plugins.opened_files import watching
from benchmark.storage.keys import seed_from

LEVELS = (1, 2, 4, 8)
"""Factors for steps, restarts and draws; each level doubles the one before."""

_SIGNIFICANCE = 0.01


def search_convergence(task: ConvergenceSearch, context: ExecutionContext) -> None:
    """Store, for each surface, the level from which on doubling it hardly changes the error.

    A change is small if it is at most 1 % of the images, or one image. The search also ends if no more than
    that share is robust on all surfaces together.

    The metadata hold:
        `levels`: For each surface that level, or the highest tried.
        `errors`: For each surface the error at each level tried.
        `converged`: Whether the search ended on every surface.
        `losses_agree`: Whether, on each surface, the losses of the attack misclassify equally many images,
            by a paired exact test at p < 0.01. True if hardly an image is robust.
    """
    runner = _AttackRunner(task, context, task.seed_for("search"))
    losses = context.new_attack(task.attack, task.shard.dataset).losses()
    searches = [_SurfaceSearch(runner, surface, losses) for surface in task.surfaces]
    tolerance = max(0.01, 1 / len(runner.labels)) + 1e-9

    def hardly_robust() -> bool:
        return 1 - _error(torch.cat([search.misclassified for search in searches])) <= tolerance

    with Stopwatch(context.device) as watch:
        for level in LEVELS:
            for search in searches:
                if not hardly_robust() and not search.converged(tolerance):
                    search.run(level)
    meta = {
        "levels": [search.level(tolerance) for search in searches],
        "errors": [search.errors for search in searches],
        "converged": hardly_robust() or all(search.converged(tolerance) for search in searches),
        "losses_agree": hardly_robust() or all(search.losses_agree for search in searches),
        "seconds": watch.seconds,
        "images": len(runner.labels),
        **vars(runner.meter),
    }
    misclassified = torch.stack([search.misclassified for search in searches]).cpu()
    context.put_tensors(task, {"misclassified": misclassified}, meta)


class _SurfaceSearch:
    """An attack on one surface at increasing levels.

    `misclassified` (losses, images) counts all levels so far; `errors` holds the share of images that some
    loss has misclassified, after each level.
    """

    def __init__(self, runner: _AttackRunner, surface: SurfaceSpec, losses: Sequence[Attack[Any]]) -> None:
        self._runner, self._surface, self._losses = runner, surface, losses
        shape = len(losses), len(runner.labels)
        self.misclassified = torch.zeros(shape, dtype=torch.bool, device=runner.labels.device)
        self.errors: list[float] = []

    def run(self, level: int) -> None:
        """Attack some rows of the shard, with `level` times the steps, restarts and draws.

        Returns:
            The images, and their margins (B,), measured by one more pass through the surface.
        """
        for attack, misclassified in zip(self._losses, self.misclassified, strict=True):
            robust = (~misclassified).nonzero().flatten()
            if len(robust):
                _, margins = self._runner.run(self._surface, attack, level, robust)
                misclassified[robust] = margins > 0
        self.errors.append(_error(self.misclassified))

    def converged(self, tolerance: float) -> bool:
        """Whether the last level hardly increased the error."""
        return len(self.errors) > 1 and self.errors[-1] - self.errors[-2] <= tolerance

    def level(self, tolerance: float) -> int:
        """The level before the last one if the search has converged, else the last one."""
        return LEVELS[max(len(self.errors) - self.converged(tolerance), 1) - 1]

    @property
    def losses_agree(self) -> bool:
        pairs = permutations(self.misclassified.cpu().numpy(), 2)
        return not any(mcnemar_less(fewer, more) < _SIGNIFICANCE for fewer, more in pairs)


def _error(misclassified: Tensor) -> float:
    """The share of images that some row of (rows, images) has misclassified."""
    return float(misclassified.any(dim=0).float().mean())


def craft_up_to_level(task: Craft, context: ExecutionContext, attack: Attack[Any]) -> tuple[Tensor, Meter]:
    """Images of the attack up to the level that `search_convergence` stored, and the passes used.

    Starts at the lowest level. Images that are misclassified on the surface are not attacked again.
    """
    assert task.convergence is not None
    index = [surface.key for surface in task.convergence.surfaces].index(task.surface.key)
    highest = context.meta(task.convergence)["levels"][index]
    runner = _AttackRunner(task, context, task.seed_for("noise"))
    images = runner.clean.clone()
    margins = torch.full((len(images),), float("-inf"), device=images.device)
    for level in LEVELS[: LEVELS.index(highest) + 1]:
        for variant in attack.losses():
            robust = (margins <= 0).nonzero().flatten()
            if not len(robust):
                break
            new_images, new_margins = runner.run(task.surface, variant, level, robust)
            better = new_margins > margins[robust]
            images[robust[better]], margins[robust[better]] = new_images[better], new_margins[better]
    return images, runner.meter


@contextmanager
def attack_errors(name: str, context: ExecutionContext) -> Iterator[None]:
    """Turn whatever an attack raises in the block into `PluginError`, so that a crash is no robustness."""
    try:
        yield
    except BudgetError as error:
        raise BudgetError(f"attack {name} used more than {context.allowance}") from error
    except (PluginError, LostResultError):
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"attack {name} raised {format_exception(error)}") from error


@dataclass
class _AttackRunner:
    """Runs an attack on parts of a shard; each surface has the whole budget, over all runs on it."""

    task: Craft | ConvergenceSearch
    context: ExecutionContext
    seed: int

    def __post_init__(self) -> None:
        self.clean, self.labels = self.context.clean(self.task.shard)
        self._meters: dict[str, Meter] = {}
        self._runs = 0

    @property
    def meter(self) -> Meter:
        """The passes on all surfaces together."""
        counts = [vars(meter) for meter in self._meters.values()]
        return Meter(**{name: sum(count[name] for count in counts) for name in vars(Meter())})

    def run(self, spec: SurfaceSpec, attack: Attack[Any], level: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Attack these rows of the shard; returns the images, and their margins in a further call."""
        self._runs += 1
        seed = seed_from("run", self.seed, level, self._runs)
        shard = self.task.shard
        noise = Noise(seed, [shard.indices[row] for row in rows.tolist()])
        surface = make_surface(spec, shard.dataset, self.context, seed_from("surface", seed), times=level)
        surface.meter = self._meters.setdefault(spec.key, surface.meter)
        x, labels = self.clean[rows], self.labels[rows]
        scaled = attack if level == 1 else attack.with_more_steps(level)
        errors = attack_errors(self.task.attack.name, self.context)
        with errors, surface.limited(self.context.budget * len(self.clean)):
            with seeded(seed), watching("attack", scaled):
                images = scaled.craft(surface, x.clone(), labels.clone(), noise)
            with torch.no_grad():
                return images, margin(surface(images), labels)
