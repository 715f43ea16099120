"""Times and results of native attacks and of the libraries' attacks: a part of `studies.speed`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark.attacks.cw_l0 import CwL0, CwL0Config
from benchmark.attacks.cw_l2 import CwL2, CwL2Config
from benchmark.attacks.cw_linf import CwLinf, CwLinfConfig
from benchmark.attacks.deepfool import DeepFool, DeepFoolConfig
from benchmark.attacks.jsma import Jsma, JsmaConfig
from torch import Tensor

from benchmark.api.attack import Attack
from benchmark.api.noise import Noise
from benchmark.execution.observer import Silent
from benchmark.execution.seeding import seeded
from benchmark.execution.surfaces import Meter, MeteredSurface
from benchmark.metrics.image_quality import norms
from benchmark.runs import execute_run, plan_run
from studies import data_root
from studies.speed.purifiers import timed


@dataclass(frozen=True)
class Pair:
    """A native attack and a library's attack of the same name, on `n` images."""

    ours: Attack[Any]
    theirs: Attack[Any]
    n: int


PAIRS = (
    Pair(DeepFool(DeepFoolConfig()), DeepFool(DeepFoolConfig(backend="foolbox")), 100),
    Pair(
        DeepFool(DeepFoolConfig(distance="linf")),
        DeepFool(DeepFoolConfig(distance="linf", backend="foolbox")),
        100,
    ),
    # Foolbox's own defaults, except a tenth of the 10,000 steps
    Pair(CwL2(CwL2Config()), CwL2(CwL2Config(backend="foolbox", steps=1000, initial_c=1e-3)), 20),
    # the fewest steps that come near ours; on more images, because the medians are close
    Pair(CwL2(CwL2Config()), CwL2(CwL2Config(backend="foolbox", steps=300, lr=0.05)), 60),
    # ART's own defaults
    Pair(
        CwLinf(CwLinfConfig()),
        CwLinf(CwLinfConfig(backend="art", steps=10, lr=0.01)),
        10,
    ),
    Pair(
        CwL0(CwL0Config()),
        CwL0(CwL0Config(backend="art", steps=10, lr=0.01, initial_c=0.01, search_steps=10)),
        10,
    ),
    Pair(Jsma(JsmaConfig()), Jsma(JsmaConfig(backend="art")), 100),
)


def attacks() -> None:
    """Print seconds, success and median norm of native and library attacks, on MNIST and `mnist-c`."""
    root = data_root()
    if root is None:
        print("attacks: skipped, it needs the MNIST files: name their folder with BENCH_DATA")
        return
    grid = {
        "datasets": [{"name": "mnist", "n": 100}],
        "targets": ["mnist-c"],
        "defenses": ["identity"],
        "attacks": ["noise"],
        "threats": ["black-box"],
    }
    with tempfile.TemporaryDirectory() as folder:  # the trained classifier stays in the default store
        prepared = plan_run(grid, Silent(), data=root, device="cpu")
        execute_run(prepared, Silent(), Path(folder))
        cell = prepared.plan.cells[0]
        surface = MeteredSurface(prepared.context.target(cell.target), 10, (1, 28, 28)).eval()
        x, labels = prepared.context.clean(cell.scores[0].shard)
    print("attack, backend, images: seconds, success, median norm, passes per image, time ratio to ours")
    for pair in PAIRS:
        ours, theirs = (
            _measure(attack, surface, x[: pair.n], labels[: pair.n]) for attack in (pair.ours, pair.theirs)
        )
        _print(pair.ours, pair.n, ours, 1.0)
        _print(pair.theirs, pair.n, theirs, theirs[0] / ours[0])


def _print(attack: Attack[Any], n: int, figures: list[float], ratio: float) -> None:
    """Print one line at once: the libraries take long."""
    seconds, success, norm, passes = figures
    reached = f"{seconds:9.2f} {success:6.3f} {norm:9.4f} {passes:9.0f}"
    print(f"{f'{attack.name} {attack.norm}':15} {attack.backend:8} {n:4} {reached} {ratio:7.2f}", flush=True)


def _measure(attack: Attack[Any], surface: MeteredSurface, x: Tensor, labels: Tensor) -> list[float]:
    found: list[Tensor] = []
    surface.meter = Meter()

    def work() -> None:
        found.append(attack.craft(surface, x, labels, Noise(0, range(len(x)))))

    with seeded(0):
        seconds = timed(work)
    passes = (surface.meter.forwards + surface.meter.backwards) / len(x)
    with torch.no_grad():
        right = surface(x).argmax(dim=1) == labels
        wrong = surface(found[0]).argmax(dim=1) != labels
    size = norms(found[0], x)[attack.norm or "l2"].masked_fill(~wrong, float("inf"))
    return [seconds, float(wrong[right].float().mean()), float(size[right].median()), passes]
