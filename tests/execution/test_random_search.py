"""The search of random points: which points count, and for which defenses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.execution.diagnostics import search_random_points
from benchmark.execution.purifier import PurifierModule
from benchmark.plan.tasks import RandomSearch
from benchmark.plugins.plugin import Config
from tests.results.hand_made import attack, only

B = 6
CLEAN = torch.full((B, 1, 4, 4), 0.5)


class Identity(Defense[Config]):
    name = "identity"

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return x.clone()


class ByCall(nn.Module):
    """In each call the images that `wrong` names are of class 1, the others of class 0; keeps the images."""

    def __init__(self, wrong: Callable[[int], set[int]]) -> None:
        super().__init__()
        self.wrong = wrong
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        classes = torch.tensor([int(row in self.wrong(len(self.seen))) for row in range(len(x))])
        self.seen.append(x.clone())
        return nn.functional.one_hot(classes, 2).float()


def search(
    wrong: Callable[[int], set[int]], *, samples: int, random: bool = False, of: Any = None
) -> tuple[list[int], ByCall]:
    """The images that the search found, and the target with the images that it saw."""
    (cell,) = only(of or attack("pgd", 0.1, mandatory=True), n=B)
    (score,) = cell.scores
    (part,) = score.purifier.parts
    part = replace(part, defense=replace(part.defense, stochastic=random))
    score = replace(score, purifier=replace(score.purifier, parts=(part,)))
    target, found = ByCall(wrong), dict[str, Any]()

    class Context:
        device = torch.device("cpu")

        def clean(self, shard: Any) -> tuple[Tensor, Tensor]:
            return CLEAN.clone(), torch.zeros(B, dtype=torch.int64)

        def target(self, task: Any) -> nn.Module:
            return target

        def purifier(self, *_: Any) -> PurifierModule:
            return PurifierModule([Identity(Config(), (1, 4, 4), 2)])

        def put_tensors(self, task: Any, tensors: dict[str, Tensor], meta: Any) -> None:
            found.update(tensors)

    search_random_points(RandomSearch(score, samples), Context())  # type: ignore[arg-type]
    return found["misclassified"].nonzero().flatten().tolist(), target


def test_one_misclassified_point_is_enough() -> None:
    found, target = search(lambda call: {call} if call < 3 else set(), samples=5)
    assert found == [0, 1, 2]
    assert len(target.seen) == 5
    assert search(lambda call: set(), samples=5)[0] == []


def test_for_a_random_defense_a_point_counts_if_both_of_two_draws_are_wrong() -> None:
    """Calls 0 and 1 are of the first point, calls 2 and 3 of the second one."""
    draws = [{0, 1, 2}, {2, 3}, {0, 4}, {1, 4}]
    found, target = search(lambda call: draws[call], samples=2, random=True)
    assert found == [2, 4]
    assert torch.equal(target.seen[0], target.seen[1])
    assert not torch.equal(target.seen[1], target.seen[2])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.3)])
def test_points_are_drawn_from_the_ball(norm: str, eps: float) -> None:
    _, target = search(lambda call: set(), samples=20, of=attack("pgd", eps, norm, mandatory=True))
    offsets = (torch.stack(target.seen) - CLEAN).flatten(2)
    lengths = offsets.abs().amax(dim=2) if norm == "linf" else offsets.norm(dim=2)
    assert 0.9 * eps < lengths.max() <= eps + 1e-6
    assert len({tuple(row.flatten().tolist()) for row in offsets.flatten(0, 1)}) == 20 * B
