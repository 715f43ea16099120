"""Words that several commands print: counts of things, durations, kinds of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

KINDS = {
    "train-target": "training classifiers",
    "train-defense": "training defenses",
    "train-attack": "training attacks",
    "train-substitute": "training substitutes",
    "train-bpda-network": "training BPDA networks",
    "purified-set": "purifying training images",
    "convergence-search": "searching the number of attack steps",
    "craft": "crafting images",
    "external-images": "reading external images",
    "purify": "purifying",
    "score": "scoring",
    "gradient-probe": "checking gradients",
    "finite-difference-check": "checking gradients against finite differences",
    "consistency-check": "checking consistency",
    "random-search": "searching random points",
}
"""What the tasks of each kind do, in the order in which a run is described."""


def count_of(count: int, noun: str) -> str:
    """A count with its noun, such as "1 cell" and "2 cells"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def sort_kinds(kinds: Iterable[str]) -> Iterator[str]:
    """The kinds of tasks in the order of `KINDS`, each once."""
    present = set(kinds)
    return (kind for kind in KINDS if kind in present)


def format_duration(seconds: float) -> str:
    """A duration in its largest unit: 40 s, 2 min, 1.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
