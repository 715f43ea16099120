"""How much of an attack it takes: found on a few images, then spent on all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from attacks.contract import Attack
from attacks.gradients import margin
from benchmark.errors import BudgetError, PluginError, told
from benchmark.keys import seed_from
from benchmark.noise import Noise
from benchmark.stats import mcnemar_less
from benchmark.tasks import Craft, Effort, SurfaceSpec
from benchmark.threats.surfaces import Meter, MeteredSurface
from benchmark.work.seeding import seeded
from benchmark.work.surface import make_surface
from benchmark.work.workshop import Stopwatch, Workshop, address

LEVELS = (1, 2, 4, 8)
"""How many times as many steps, restarts and draws."""

_LEVEL = 0.01


def find_effort(task: Effort, workshop: Workshop) -> None:
    """Store the level beyond which twice as much moves the error by no more than a point or an image.

    The error is that of an attacker with all of the surfaces, as in the cell: an image that one of them led
    to leaves the batch of all.

    `level`: that, or the highest there is. `errors`: of each level tried. `converged`: whether one was
    found. `agree`: whether the losses that the attack can follow break equally many images, as far as a
    paired exact test at p < 0.01 can tell.
    """
    bench = _Bench(task, task.surfaces, workshop, seed_from("effort", task.key))
    losses = workshop.new_attack(task.attack, task.shard.dataset).losses()
    broken = [torch.zeros_like(bench.labels, dtype=torch.bool) for _ in losses]
    allowed = max(0.01, 1 / len(bench.labels)) + 1e-9
    errors: list[float] = []
    with Stopwatch(workshop.device) as watch:
        for level in LEVELS:
            for attack, fell in zip(losses, broken, strict=True):
                for surface in task.surfaces:
                    left = (~fell).nonzero().flatten()
                    if len(left):
                        _, margins = bench.run(surface, attack, level, left)
                        fell[left] = margins > 0
            errors.append(float(torch.stack(broken).any(dim=0).float().mean()))
            if len(errors) > 1 and errors[-1] - errors[-2] <= allowed:
                break
    converged = len(errors) > 1 and errors[-1] - errors[-2] <= allowed
    found = {
        "level": LEVELS[len(errors) - 2] if converged else LEVELS[-1],
        "errors": errors,
        "converged": converged,
        "agree": not any(_fewer(one, other) for one, other in permutations(broken, 2)),
    }
    meta = {"seconds": watch.seconds, "images": len(bench.labels), "task": task.content()}
    workshop.store.put_tensors(
        address(task), {"broken": torch.stack(broken).cpu()}, found | meta | vars(bench.meter)
    )


def _fewer(one: Tensor, other: Tensor) -> bool:
    return mcnemar_less(one.cpu().numpy(), other.cpu().numpy()) < _LEVEL


def craft_with_effort(task: Craft, workshop: Workshop, attack: Attack[Any]) -> tuple[Tensor, Meter]:
    """Images of the attack at the level that was found worth it, and the passes that they took.

    It begins with little; images that are wrong on the surface leave the batch.
    """
    assert task.effort is not None
    highest = workshop.meta(task.effort)["level"]
    bench = _Bench(task, (task.surface,), workshop, task.noise_seed)
    images = bench.clean.clone()
    margins = torch.full((len(images),), float("-inf"), device=images.device)
    for level in LEVELS[: LEVELS.index(highest) + 1]:
        for variant in attack.losses():
            left = (margins <= 0).nonzero().flatten()
            if not len(left):
                break
            found, lead = bench.run(task.surface, variant, level, left)
            better = lead > margins[left]
            images[left[better]], margins[left[better]] = found[better], lead[better]
    return images, bench.meter


@dataclass
class _Bench:
    """Where an attack is run on parts of a shard; all passes are counted together."""

    task: Craft | Effort
    surfaces: tuple[SurfaceSpec, ...]
    workshop: Workshop
    seed: int

    def __post_init__(self) -> None:
        self.clean, self.labels = self.workshop.clean(self.task.shard)
        self.meter = Meter()
        self._made: dict[tuple[SurfaceSpec, int], MeteredSurface] = {}
        self._runs = 0

    def run(self, on: SurfaceSpec, attack: Attack[Any], level: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Images at these places, and their margins as the surface tells them on another call."""
        self._runs += 1
        seed = seed_from(self.seed, level, self._runs)
        indices = self.task.shard.indices
        noise = Noise(seed, [indices[place] for place in places.tolist()])
        surface = self._surface(on, level)
        x, labels = self.clean[places], self.labels[places]
        harder = attack if level == 1 else attack.harder(level)
        name = self.task.attack.name
        try:
            with seeded(seed):
                images = harder.craft(surface, x.clone(), labels.clone(), noise)
            with torch.no_grad():
                return images, margin(surface(images), labels)
        except BudgetError as error:
            raise BudgetError(f"attack {name} asked for more than {self.workshop.allowance}") from error
        except PluginError:
            raise
        except (Exception, SystemExit) as error:  # whatever an attack raises is no robustness
            raise PluginError(f"attack {name} raised {told(error)}") from error

    def _surface(self, on: SurfaceSpec, level: int) -> MeteredSurface:
        if (on, level) not in self._made:
            seed = seed_from("surface", self.seed, self.surfaces.index(on), level)
            surface = make_surface(on, self.task.shard.dataset, self.workshop, seed, level)
            surface.meter = self.meter
            surface.allowed = self.workshop.budget * len(self.clean) * len(self.surfaces)
            self._made[on, level] = surface
        return self._made[on, level]
