"""Native attacks against the libraries', with what each reaches: a part of `tests.speed`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.contract import Attack
from attacks.cw_l0 import CwL0, CwL0Config
from attacks.cw_l2 import CwL2, CwL2Config
from attacks.cw_linf import CwLinf, CwLinfConfig
from attacks.deepfool import DeepFool, DeepFoolConfig
from attacks.jsma import Jsma, JsmaConfig
from benchmark.display import Silent
from benchmark.metrics import norms
from benchmark.noise import Noise
from benchmark.runs import prepare, run_prepared
from benchmark.threats.surfaces import Meter, MeteredSurface
from benchmark.work.seeding import seeded
from tests.conftest import data_root
from tests.speed_purifiers import timed


@dataclass(frozen=True)
class Pair:
    """A native attack and a library's of the same name, on so many images."""

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
    # Foolbox's own defaults, but for a tenth of the 10,000 steps
    Pair(CwL2(CwL2Config()), CwL2(CwL2Config(backend="foolbox", steps=1000, initial_c=1e-3)), 20),
    # the fewest steps by which it comes near; on more images, for medians are close
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
    """Seconds, success and median norm of native attacks and of the libraries', on MNIST and `mnist-c`."""
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
    with tempfile.TemporaryDirectory() as folder:  # the trained classifier is kept in the usual store
        prepared = prepare(grid, Silent(), data=root, device="cpu")
        run_prepared(prepared, Silent(), Path(folder))
        cell = prepared.plan.cells[0]
        surface = MeteredSurface(prepared.workshop.target(cell.target), 10, (1, 28, 28)).eval()
        x, labels = prepared.workshop.clean(cell.scores[0].shard)
    print("attack, backend, images: seconds, success, median norm, passes per image, times as long as ours")
    for pair in PAIRS:
        ours, theirs = (
            _measure(attack, surface, x[: pair.n], labels[: pair.n]) for attack in (pair.ours, pair.theirs)
        )
        _print(pair.ours, pair.n, ours, 1.0)
        _print(pair.theirs, pair.n, theirs, theirs[0] / ours[0])


def _print(attack: Attack[Any], n: int, figures: list[float], ratio: float) -> None:
    """One line as soon as it is known: the libraries take their time."""
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
