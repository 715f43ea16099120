"""Times of purifiers, and of the short-cuts of Defense-GAN: parts of `studies.speed`."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from benchmark.defenses.nets.training_steps import adversarial_batch
from tabulate import tabulate
from torch import Tensor

from benchmark.api.noise import Noise
from benchmark.execution.observer import Silent
from benchmark.execution.purifier import PurifierModule
from benchmark.plugins.registry import default_registry
from benchmark.runs import plan_run
from studies import data_root


def timed(work: Callable[[], object]) -> float:
    """The seconds that a function takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def purifiers() -> None:
    """Print milliseconds per 28×28 image of every purifier; untrained weights take the same time."""
    registry = default_registry()
    times: dict[str, list[float]] = {}
    for name in registry.names("defense"):
        plugin: Any = registry.get("defense", name).load()
        module = PurifierModule([plugin(plugin.config_type()(), (1, 28, 28), 10)])
        times[name] = [_per_image(module, batch) for batch in (1, 256)]
    rows = [[name, *milliseconds] for name, milliseconds in times.items()]
    print(tabulate(rows, ["defense", "ms, batch 1", "ms, batch 256"], tablefmt="github", floatfmt=".2f"))
    for column, batch in enumerate((1, 256)):
        ratio = times["defense-gan"][column] / times["puvae"][column]
        print(f"batch {batch}: defense-gan takes {ratio:.0f} × as long as puvae")


def shortcuts() -> None:
    """Print times and errors of Defense-GAN's exact projection and its short-cuts, on 100 images of MNIST."""
    root = data_root()
    if root is None:
        print("shortcuts: skipped, it needs the MNIST files: name their folder with BENCH_DATA")
        return
    settings: list[dict[str, Any]] = [
        {},
        {"encoder_start": True},
        {"drop_after": 20},
        {"plateau": 0.01},
        {"encoder_start": True, "drop_after": 10, "keep": 2},
        {"encoder_start": True, "drop_after": 10, "keep": 2, "plateau": 0.001},
        {"restarts": 2},
        {"iterations": 40},
    ]
    grid = {
        "datasets": [{"name": "mnist", "n": 1}],
        "targets": ["mnist-c"],
        "defenses": [{"name": "defense-gan"} | setting for setting in settings],
        "attacks": ["noise"],
        "threats": ["black-box"],
    }
    prepared = plan_run(grid, Silent(), data=root, device="cpu")
    context, cells = prepared.context, prepared.plan.cells
    validation = context.training_data(cells[0].dataset).validation
    clean, labels = validation.take(torch.arange(100)), validation.labels[:100]
    fgsm = adversarial_batch("fgsm", context.target(cells[0].target), clean, labels, 0.3)
    rows: list[list[Any]] = []
    for cell, setting in zip(cells, settings, strict=True):
        module = context.purifier(cell.purifier, cell.dataset)
        named = ", ".join(f"{name} {value}" for name, value in setting.items())
        rows.append([named or "exact", *_projected(module, clean), *_projected(module, fgsm)])
    exact = rows[0]
    for row in rows:
        for time_column, error_column in ((1, 2), (3, 4)):
            row += [
                exact[time_column] / row[time_column],
                100 * (row[error_column] / exact[error_column] - 1),
            ]
    columns = ["ms, clean", "MSE, clean", "ms, fgsm", "MSE, fgsm"]
    columns += ["× faster, clean", "% more error, clean", "× faster, fgsm", "% more error, fgsm"]
    print(tabulate(rows, ["short-cuts", *columns], tablefmt="github", floatfmt=".4g"))


def _projected(module: PurifierModule, x: Tensor) -> tuple[float, float]:
    """Milliseconds per image of one purification, and the mean squared error to its input."""
    module.noise = Noise(0, range(len(x)))
    begin = time.perf_counter()
    with torch.no_grad():
        purified = module(x)
    return 1000 * (time.perf_counter() - begin) / len(x), (purified - x).square().mean().item()


def _per_image(module: PurifierModule, batch: int) -> float:
    """Milliseconds: the median of five runs after a first one, or the first run if it takes over 10 s."""
    x = torch.rand(batch, 1, 28, 28)

    def run() -> None:
        module.noise = Noise(0, range(batch))
        with torch.no_grad():
            module(x)

    first = timed(run)
    seconds = first if first > 10 else median(timed(run) for _ in range(5))
    return 1000 * seconds / batch
