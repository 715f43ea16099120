"""How much of an attack it takes: found on a few images, then spent on all."""

from __future__ import annotations

from collections.abc import Sequence
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
from benchmark.opened_files import watching
from benchmark.stats import mcnemar_less
from benchmark.tasks import Craft, Effort, SurfaceSpec
from benchmark.threats.surfaces import Meter, MeteredSurface
from benchmark.work.seeding import seeded
from benchmark.work.surface import make_surface
from benchmark.work.workshop import Stopwatch, Workshop

LEVELS = (1, 2, 4, 8)
"""How many times as many steps, restarts and draws."""

_LEVEL = 0.01


def find_effort(task: Effort, workshop: Workshop) -> None:
    """Store, for each surface, the level beyond which twice as much moves the error by next to nothing.

    That is no more than a point or an image, of the images that this surface has led to; or than is left of
    all of them, once one surface or another has broken the rest.

    `levels`: of the surfaces in turn, that level or the highest there is. `errors`: of each level tried, for
    each surface. `converged`: whether every surface came to that. `losses_agree`: whether on each surface the
    losses that the attack can follow break equally many images, as far as a paired exact test at p < 0.01 can
    tell; where next to nothing is left, they do.
    """
    bench = _Bench(task, workshop, task.seed_for("search"))
    losses = workshop.new_attack(task.attack, task.shard.dataset).losses()
    searches = [_Search(bench, surface, losses) for surface in task.surfaces]
    allowed = max(0.01, 1 / len(bench.labels)) + 1e-9

    def left() -> float:
        return 1 - _share(torch.cat([search.broken for search in searches]))

    with Stopwatch(workshop.device) as watch:
        for level in LEVELS:
            for search in searches:
                if left() > allowed and not search.settled(allowed):
                    search.go_on(level)
    found = {
        "levels": [search.level(allowed) for search in searches],
        "errors": [search.errors for search in searches],
        "converged": left() <= allowed or all(search.settled(allowed) for search in searches),
        "losses_agree": left() <= allowed or all(search.agree for search in searches),
    }
    meta = {"seconds": watch.seconds, "images": len(bench.labels)}
    broken = torch.stack([search.broken for search in searches]).cpu()
    workshop.put_tensors(task, {"misclassified": broken}, found | meta | vars(bench.meter))


class _Search:
    """What an attack breaks on one surface, level by level.

    Attributes:
        broken: By each of its losses, shape (losses, images).
        errors: The share of images that some loss had broken after each level tried.
    """

    def __init__(self, bench: _Bench, surface: SurfaceSpec, losses: Sequence[Attack[Any]]) -> None:
        self._bench, self._surface, self._losses = bench, surface, losses
        self.broken = torch.zeros(
            len(losses), len(bench.labels), dtype=torch.bool, device=bench.labels.device
        )
        self.errors: list[float] = []

    def go_on(self, level: int) -> None:
        """Try what no loss of its own has broken at this level."""
        for attack, fell in zip(self._losses, self.broken, strict=True):
            left = (~fell).nonzero().flatten()
            if len(left):
                _, margins = self._bench.run(self._surface, attack, level, left)
                fell[left] = margins > 0
        self.errors.append(_share(self.broken))

    def settled(self, allowed: float) -> bool:
        """Whether the last level found next to nothing that the one before had not."""
        return len(self.errors) > 1 and self.errors[-1] - self.errors[-2] <= allowed

    def level(self, allowed: float) -> int:
        """What is worth it: the level before the last where that settled it, else the last one tried."""
        tried = len(self.errors) - (1 if self.settled(allowed) else 0)
        return LEVELS[max(tried, 1) - 1]

    @property
    def agree(self) -> bool:
        return not any(_fewer(one, other) for one, other in permutations(self.broken, 2))


def _share(broken: Tensor) -> float:
    """The share of images that some row has broken."""
    return float(broken.any(dim=0).float().mean())


def _fewer(one: Tensor, other: Tensor) -> bool:
    return mcnemar_less(one.cpu().numpy(), other.cpu().numpy()) < _LEVEL


def craft_with_effort(task: Craft, workshop: Workshop, attack: Attack[Any]) -> tuple[Tensor, Meter]:
    """Images of the attack at the level that was found worth it, and the passes that they took.

    It begins with little; images that are wrong on the surface leave the batch.
    """
    assert task.effort is not None
    place = [surface.key for surface in task.effort.surfaces].index(task.surface.key)
    highest = workshop.meta(task.effort)["levels"][place]
    bench = _Bench(task, workshop, task.seed_for("noise"))
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
    """Where an attack is run on parts of a shard; passes count against the budget of each surface."""

    task: Craft | Effort
    workshop: Workshop
    seed: int

    def __post_init__(self) -> None:
        self.clean, self.labels = self.workshop.clean(self.task.shard)
        self._meters: dict[str, Meter] = {}
        self._runs = 0

    @property
    def meter(self) -> Meter:
        """The passes on all surfaces together."""
        counts = [vars(meter) for meter in self._meters.values()]
        return Meter(**{name: sum(count[name] for count in counts) for name in vars(Meter())})

    def run(self, on: SurfaceSpec, attack: Attack[Any], level: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Images at these places, and their margins as the surface tells them on another call."""
        self._runs += 1
        seed = seed_from("run", self.seed, level, self._runs)
        indices = self.task.shard.indices
        noise = Noise(seed, [indices[place] for place in places.tolist()])
        surface = self._surface(on, level, seed)
        x, labels = self.clean[places], self.labels[places]
        harder = attack if level == 1 else attack.harder(level)
        name = self.task.attack.name
        try:
            with seeded(seed), watching("attack", harder):
                images = harder.craft(surface, x.clone(), labels.clone(), noise)
            with torch.no_grad():
                return images, margin(surface(images), labels)
        except BudgetError as error:
            raise BudgetError(f"attack {name} asked for more than {self.workshop.allowance}") from error
        except PluginError:
            raise
        except (Exception, SystemExit) as error:  # whatever an attack raises is no robustness
            raise PluginError(f"attack {name} raised {told(error)}") from error

    def _surface(self, on: SurfaceSpec, level: int, seed: int) -> MeteredSurface:
        surface = make_surface(
            on, self.task.shard.dataset, self.workshop, seed_from("surface", seed), times=level
        )
        surface.meter = self._meters.setdefault(on.key, surface.meter)
        surface.allowed = self.workshop.budget * len(self.clean)
        return surface
