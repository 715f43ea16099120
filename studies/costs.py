"""`make costs`: measures what tasks cost on this machine, and writes `benchmark/execution/costs.csv`.

Targets and purifiers are timed alone, with untrained weights. Attacks, trainings and the other kinds of tasks
are timed in small runs on scikit-learn's digits. These are not measured, so that the default of their part
counts: pretrained targets, `on-manifold`, which needs a defense with latents, and trainings of targets for
colour images. An attack through a library counts as its native form. Everything is measured on one thread, in
processor time, so that other programs on the machine disturb little.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmark.api.noise import Noise
from benchmark.errors import UserError
from benchmark.execution.calibration import calibration_seconds
from benchmark.execution.cost_table import ANY, COLUMNS, TABLE, CostTable, amount_of_work, trained_images
from benchmark.execution.observer import Silent
from benchmark.execution.purifier import PurifierModule
from benchmark.plan import tasks
from benchmark.plan.tasks import Task
from benchmark.plugins.registry import default_registry
from benchmark.runs import execute_run, plan_run

_IMAGES = 100
_SLOW = 2.0
"""Seconds from which on one measurement is enough."""

_SMALL, _LARGE = (1, 28, 28), (3, 32, 32)
_LARGE_TARGETS = ("cifar-d", "densenet40", "resnet18", "vgg13")
_TRAINING_IMAGES = {
    "digits": (1436, _SMALL),
    "mnist": (55000, _SMALL),
    "fashion-mnist": (55000, _SMALL),
    "cifar10": (45000, _LARGE),
    "cifar100": (45000, _LARGE),
    ANY: (45000, _LARGE),
}
_TARGET = {"name": "mnist-c", "min_steps": 300, "batch_size": 32, "lr": 0.002}
_ATTACKS: tuple[Mapping[str, Any], ...] = (
    {"name": "noise"},
    {"name": "uniform-noise", "eps": 0.2},
    {"name": "fgsm", "eps": 0.2},
    {"name": "bim", "eps": 0.2, "steps": 10},
    {"name": "mim", "eps": 0.2, "steps": 10},
    {"name": "pgd", "eps": 0.2, "steps": 10},
    {"name": "apgd-ce", "eps": 0.2, "steps": 20},
    {"name": "apgd-dlr-targeted", "eps": 0.2, "steps": 10},
    {"name": "square", "eps": 0.2, "steps": 100},
    {"name": "advgan", "eps": 0.2, "epochs": 1, "min_steps": 0},
    {"name": "deepfool"},
    {"name": "cw-l2", "steps": 100, "search_steps": 3},
    {"name": "cw-linf"},
    {"name": "cw-l0"},
    {"name": "jsma"},
    {"name": "l-bfgs", "steps": 20, "search_steps": 3},
    {"name": "hopskipjump", "steps": 3, "most_queries": 1000},
)
_SLOW_ATTACKS = ("l-bfgs", "hopskipjump", "cw-l0", "cw-l2", "cw-linf", "jsma")

Row = dict[str, Any]
Timings = list[tuple[Task, float]]


class _Timer(Silent):
    """Keeps the processor time of each task."""

    def __init__(self) -> None:
        self.timings: Timings = []
        self._began = 0.0

    def started(self, task: Task) -> None:
        self._began = time.process_time()

    def finished(self, task: Task, seconds: float) -> None:
        self.timings.append((task, time.process_time() - self._began))


def main() -> None:
    """Measure everything and write the table."""
    torch.set_num_threads(1)
    before = calibration_seconds()
    rows = [*_data_sets(), *_targets(), *_purifiers()]
    rows += _per_plugin(rows)
    rows += _per_kind(rows)
    calibration_seconds.cache_clear()
    rows = [_row("calibration", ANY, (before + calibration_seconds()) / 2, "s"), *rows]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{TABLE}: {len(rows)} rows")


def _row(part: str, name: str, value: float, unit: str, shape: tuple[int, int, int] | None = None) -> Row:
    pixels = "" if shape is None else shape[0] * shape[1] * shape[2]
    print(f"{part} {name}: {value:.4g} {unit}", flush=True)
    return {"part": part, "name": name, "value": f"{value:.4g}", "unit": unit, "pixels": pixels}


def _data_sets() -> list[Row]:
    return [
        {"part": "training images", "name": name, "value": count, "unit": "images", "pixels": c * h * w}
        for name, (count, (c, h, w)) in _TRAINING_IMAGES.items()
    ]


def _targets() -> list[Row]:
    """Milliseconds of one image forward and backward through each trainable target."""
    registry, rows = default_registry(), list[Row]()
    for name in ("mnist-a", "mnist-b", "mnist-c", "advgan-cnn", *_LARGE_TARGETS):
        shape = _LARGE if name in _LARGE_TARGETS else _SMALL
        plugin: Any = registry.get("target", name).load()
        module = plugin(plugin.config_type()(), shape, 10).eval().requires_grad_(False)
        milliseconds = _milliseconds(module, shape, gradient=True)
        rows.append(_row("target", name, milliseconds, "ms per image", shape))
    per_pixel = median(float(row["value"]) / row["pixels"] for row in rows)
    return [*rows, _row("target", ANY, per_pixel * 784, "ms per image", _SMALL)]


def _purifiers() -> list[Row]:
    """Milliseconds of one image through each purifier, and also back, for one step of those that iterate."""
    registry = default_registry()
    rows: dict[str, list[Row]] = {"purify": [], "purify-gradient": []}
    for name in registry.names("defense"):
        plugin: Any = registry.get("defense", name).load()
        settings = {"restarts": 1, "iterations": 10} if name == "defense-gan" else {}
        config = plugin.config_type()(**settings)
        module = PurifierModule([plugin(config, _SMALL, 10).eval().requires_grad_(False)])
        used = config.fields_marked("infer")
        work = amount_of_work({n: value for n, value in config.model_dump().items() if n in used})
        for part, members in rows.items():
            milliseconds = _milliseconds(module, _SMALL, gradient=part != "purify") / work
            members.append(_row(part, name, milliseconds, "ms per image", _SMALL))
    for part, members in rows.items():
        usual = median(float(row["value"]) for row in members)
        members.append(_row(part, ANY, usual, "ms per image", _SMALL))
    return [row for members in rows.values() for row in members]


def _milliseconds(module: Any, shape: tuple[int, int, int], *, gradient: bool) -> float:
    """Median of five passes of a batch after a first one, per image; the first one if it takes seconds."""
    images = torch.rand(_IMAGES, *shape, generator=torch.Generator().manual_seed(0))

    def run() -> None:
        if isinstance(module, PurifierModule):
            module.reset(Noise(0, range(_IMAGES)))
        x = images.clone().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            y = module(x)
            if gradient and y.requires_grad:
                torch.autograd.grad(y.sum(), x, allow_unused=True)

    first = _seconds(run)
    seconds = first if first > _SLOW else median(_seconds(run) for _ in range(5))
    return 1000 * seconds / _IMAGES


def _seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _per_plugin(rows: list[Row]) -> list[Row]:
    """Passes of each attack and each training, relative to one pass through the target."""
    table = CostTable([*rows, *_units()])
    quick = [attack for attack in _ATTACKS if attack["name"] not in _SLOW_ATTACKS]
    slow = [attack for attack in _ATTACKS if attack["name"] in _SLOW_ATTACKS]
    timings = [*_timings(quick, n=_IMAGES), *_timings(slow, n=10)]
    found: dict[str, list[Row]] = {"attack": [], "train-attack": []}
    for task, seconds in timings:
        if isinstance(task, tasks.Craft):
            found["attack"].append(_row("attack", task.label, seconds / table.seconds(task), "passes"))
        if isinstance(task, tasks.TrainAttack):
            found[task.kind].append(_row(task.kind, task.label, seconds / table.seconds(task), "passes"))
    found |= _trainings(table)
    for part, members in found.items():
        usual = median(float(row["value"]) for row in members)
        unit, shape = members[0]["unit"], _SMALL if members[0]["pixels"] else None
        members.append(_row(part, ANY, usual, unit, shape))
    return [row for members in found.values() for row in members]


def _trainings(table: CostTable) -> dict[str, list[Row]]:
    """Passes per training image of targets, and milliseconds per training image of defenses."""
    targets: list[dict[str, Any]] = [
        {"name": name, "epochs": 1, "min_steps": 0} for name in ("mnist-a", "mnist-b", "mnist-c")
    ]
    defenses: list[dict[str, Any]] = [
        {"name": "ape-gan", "epochs": 1, "min_steps": 0},
        {"name": "iso-gan", "epochs": 1, "min_steps": 0},
        {"name": "magnet", "epochs": 1, "min_steps": 0, "batch_size": 64},
        {"name": "puvae", "epochs": 1, "min_steps": 0},
        {"name": "defense-gan", "steps": 30, "encoder_steps": 4, "restarts": 1, "iterations": 2},
    ]
    timings = _timings([{"name": "noise"}], n=5, targets=targets)
    timings += _timings([{"name": "noise"}], n=5, defenses=defenses)
    found: dict[str, list[Row]] = {"train-target": [], "train-defense": []}
    done: set[str] = set()
    for task, seconds in timings:
        if task.label in done:
            continue
        if isinstance(task, tasks.TrainTarget):
            found[task.kind].append(_row(task.kind, task.label, seconds / table.seconds(task), "passes"))
        if isinstance(task, tasks.TrainDefense):
            images = trained_images(task.defense.config, _TRAINING_IMAGES["digits"][0])
            found[task.kind].append(
                _row(task.kind, task.label, 1000 * seconds / images, "ms per image", _SMALL)
            )
        done.add(task.label)
    return found


def _per_kind(rows: list[Row]) -> list[Row]:
    """Constant seconds of each kind of task, and the passes of kinds whose time grows with images."""
    base = [*rows, *_units()]
    table = CostTable(base)
    pgd, defenses = [{"name": "pgd", "eps": 0.2, "steps": 10}], [{"name": "identity"}, {"name": "jpeg"}]
    few, many = (
        _by_kind(_timings(pgd, n=n, defenses=defenses, threats=_THREATS, sanity="full")) for n in (2, _IMAGES)
    )
    overheads = {kind: median(seconds for _, seconds in timings) for kind, timings in few.items()}
    for kind in ("purified-set", "train-bpda-network"):  # their images do not depend on n
        overheads[kind] = median(seconds - table.seconds(task) for task, seconds in few[kind])
    for kind in [kind for kind in overheads if kind.startswith("train-") and kind != "train-bpda-network"]:
        overheads[kind] = overheads["purify"]
    overheads["craft"] = overheads["convergence-search"] = overheads["purify"]
    found = [_row("overhead", kind, max(seconds, 0), "s") for kind, seconds in sorted(overheads.items())]
    found.append(_row("overhead", ANY, median(overheads.values()), "s"))
    passes: dict[str, float] = {
        kind: median(max(seconds - overheads[kind], 0) / table.seconds(task) for task, seconds in many[kind])
        for kind in (
            "score",
            "gradient-probe",
            "consistency-check",
            "finite-difference-check",
            "random-search",
        )
        if kind in many
    }
    passes |= _convergence(rows)
    found += [_row("passes", kind, value, "passes") for kind, value in sorted(passes.items())]
    return [*found, _row("passes", ANY, median(passes.values()), "passes")]


_THREATS: tuple[Any, ...] = ("black-box", "white-box")


def _convergence(rows: list[Row]) -> dict[str, float]:
    """The work of a convergence search and of a craft after it, relative to the attack as configured."""
    table = CostTable([*rows, *_units(attacks=False)])
    strong = {"name": "white-box", "preset": "strong"}
    timings = _timings(
        [{"name": "pgd", "eps": 0.1, "steps": 10}], n=50, defenses=[{"name": "jpeg"}], threats=[strong]
    )
    searches = [s / table.seconds(t) for t, s in timings if isinstance(t, tasks.ConvergenceSearch)]
    crafts = [
        s / table.seconds(t) for t, s in timings if isinstance(t, tasks.Craft) and t.convergence is not None
    ]
    return {"convergence-search": median(searches), "converged-craft": median(crafts)}


def _units(*, attacks: bool = True) -> list[Row]:
    """Rows with no constant time and one pass for everything: a prediction in units of passes."""
    parts = ["passes", "train-target", "train-attack", *(["attack"] if attacks else [])]
    units = [{"part": part, "name": ANY, "value": 1, "unit": "", "pixels": ""} for part in parts]
    return [*units, {"part": "overhead", "name": ANY, "value": 0, "unit": "", "pixels": ""}]


def _by_kind(timings: Timings) -> dict[str, Timings]:
    kinds: dict[str, Timings] = {}
    for task, seconds in timings:
        kinds.setdefault(task.kind, []).append((task, seconds))
    return kinds


def _timings(
    attacks: Iterable[Mapping[str, Any]],
    *,
    n: int,
    targets: Iterable[Mapping[str, Any]] = (_TARGET,),
    defenses: Iterable[Mapping[str, Any]] = ({"name": "identity"},),
    threats: Iterable[Any] = ("black-box",),
    sanity: Any = "fast",
) -> Timings:
    """Run a grid on digits with an empty store, with the classifier from the zoo."""
    grid = {
        "datasets": [{"name": "digits", "n": n}],
        "targets": list(targets),
        "source": "target",
        "defenses": list(defenses),
        "attacks": list(attacks),
        "threats": list(threats),
    }
    timer = _Timer()
    with tempfile.TemporaryDirectory() as folder:
        planned = plan_run(grid, timer, store=f"{folder}/store", device="cpu", sanity=sanity)
        completed = execute_run(planned, timer, Path(folder) / "out")
        if completed.failed:
            raise UserError(f"a cell of the measurement failed: {completed.failed[0]['reason']}")
    return timer.timings


if __name__ == "__main__":
    main()
