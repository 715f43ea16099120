"""`make speed`: measures ratios to a bare loop and to a script, memory, purifiers, attacks, noise,
the report, a dry run, planning, and the cost of a task beside its work.

`python -m studies.speed shortcuts` measures the time that the short-cuts of Defense-GAN save, `imagenet` the
memory of a run on large images, `resume` a second run of 10,000 cells, and `workers` what several processes
gain. A ratio compares two measurements in the same process, taken in turn; the median is printed. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmark.attacks.apgd_ce import ApgdCe, ApgdCeConfig
from benchmark.attacks.bim import Bim, BimConfig
from benchmark.attacks.fgsm import Fgsm, FgsmConfig
from benchmark.attacks.mim import Mim, MimConfig
from benchmark.attacks.pgd import Pgd, PgdConfig
from benchmark.targets.loading.recipe import RecipeConfig
from benchmark.targets.mnist_cnn import MnistC
from torch import Tensor, nn

from benchmark.api.attack import Attack
from benchmark.api.noise import Noise
from benchmark.execution.observer import Silent
from benchmark.execution.surfaces import BpdaSurface, MeteredSurface, SurfaceInputs
from benchmark.runs import PlannedRun, execute_run, plan_run
from studies import REPOSITORY, data_root
from studies.speed.attacks import attacks
from studies.speed.memory import imagenet, memory
from studies.speed.noise import noise
from studies.speed.overhead import overhead
from studies.speed.purifiers import purifiers, shortcuts, timed
from studies.speed.scale import planning, resume, workers

ROUNDS = 15
STEPS = 40


def main() -> None:
    """Measure everything, or the parts that the command line names."""
    parts: dict[str, Callable[[], None]] = {
        "loop": loop,
        "grid": grid,
        "memory": memory,
        "purifiers": purifiers,
        "attacks": attacks,
        "noise": noise,
        "report": report,
        "dry-run": dry_run,
        "planning": planning,
        "overhead": overhead,
    }
    # only by name: they take minutes; `shortcuts` trains for 40 minutes if the store has no weights
    trained = {"shortcuts": shortcuts, "imagenet": imagenet, "resume": resume, "workers": workers}
    # argparse checks the default [] if no part is named
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", default=list(parts), choices=[*parts, *trained, []])
    print(f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads, torch {torch.__version__}")
    for name in parser.parse_args().part:
        (parts | trained)[name]()


def loop() -> None:
    """Native gradient attacks against bare forward and backward passes over the same images."""
    model = MnistC(RecipeConfig(), (1, 28, 28), 10).eval().requires_grad_(False)
    surface = MeteredSurface(model, 10, (1, 28, 28)).eval()
    x, labels = torch.rand(100, 1, 28, 28), torch.arange(100) % 10

    def bare(steps: int) -> None:
        for _ in range(steps):
            images = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(images), labels), images)

    cases: list[tuple[str, Attack[Any], int]] = [
        ("fgsm", Fgsm(FgsmConfig(eps=0.3)), 1),
        ("pgd", Pgd(PgdConfig(eps=0.3, steps=STEPS)), STEPS),
        ("bim", Bim(BimConfig(eps=0.3, steps=STEPS)), STEPS),
        ("mim", Mim(MimConfig(eps=0.3, steps=STEPS)), STEPS),
        ("apgd-ce", ApgdCe(ApgdCeConfig(eps=0.3, steps=STEPS)), STEPS),
    ]
    for name, attack, steps in cases:
        rounds = ROUNDS * (10 if steps == 1 else 1)

        def ours(attack: Attack[Any] = attack) -> None:
            attack.craft(surface, x, labels, Noise(0, range(100)))

        def theirs(steps: int = steps) -> None:
            bare(steps)

        ratios, seconds = in_turn(ours, theirs, rounds)
        print(
            f"{name}, {steps} steps, 100 images, mnist-c: {1000 * seconds:.1f} ms, "
            f"{ratios:.3f} × a bare loop (median of {rounds})"
        )


def in_turn(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> tuple[float, float]:
    """The median ratio of two functions that run in turn, and the median seconds of the first."""
    ratios, seconds = [], []
    for _ in range(rounds + 1):
        first = timed(ours)
        ratios.append(first / timed(theirs))
        seconds.append(first)
    return median(ratios[1:]), median(seconds[1:])


def grid() -> None:
    """The `mnist` grid with n 100, compared with a script that crafts again for every cell with ART."""
    root = data_root()
    if root is None:
        print("grid: skipped, it needs the MNIST files: name their folder with BENCH_DATA")
        return
    source = {
        "datasets": [{"name": "mnist", "n": 100}],
        "targets": ["mnist-b", "mnist-c"],
        "defenses": ["identity", "round8", "jpeg", "median", {"name": "ape-gan", "epochs": 1}],
        "attacks": [
            {"name": "fgsm", "eps": [0.1, 0.2, 0.3, 0.4]},
            {"name": "pgd", "eps": 0.3},
            "deepfool",
            "noise",
        ],
        "threats": ["black-box", "white-box"],
    }
    with tempfile.TemporaryDirectory() as folder:
        observer, out = Silent(), Path(folder) / "out"

        def planned(grid: dict[str, object]) -> PlannedRun:
            return plan_run(grid, observer, data=root, store=f"{folder}/store", device="cpu")

        # trainings are not part of the comparison
        execute_run(planned(source | {"attacks": ["noise"]}), observer, out)
        prepared = planned(source)
        ours = timed(lambda: execute_run(prepared, observer, out))
        theirs = timed(lambda: straightforward(prepared))
    cells = len(prepared.plan.cells) - len(prepared.plan.skipped)
    print(
        f"mnist grid, n 100, {cells} cells: {ours:.0f} s; crafting again for every cell with ART, one "
        f"surface per cell: {theirs:.0f} s; {theirs / ours:.2f} × as long"
    )


def straightforward(prepared: PlannedRun) -> None:
    """For each cell: wrap, craft with ART, purify, predict. White-box uses BPDA with the identity."""
    from art.estimators.classification import PyTorchClassifier

    context = prepared.context
    for cell in prepared.plan.cells:
        if cell.skipped:
            continue
        target = context.target(cell.target)
        purifier = context.purifier(cell.purifier, cell.dataset)
        x, labels = context.clean(cell.scores[0].shard)
        white_box = cell.threat.name == "white-box"
        model: nn.Module = (
            BpdaSurface(nn.Identity(), SurfaceInputs(target, purifier, None, None, 10, (1, 28, 28)), 1)
            if white_box
            else MeteredSurface(target, 10, (1, 28, 28))
        )
        classifier = PyTorchClassifier(
            model=model.eval(),
            loss=nn.CrossEntropyLoss(),
            input_shape=(1, 28, 28),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        if cell.attack.name == "noise":
            adversarial: Tensor = (x + 0.05**0.5 * torch.randn_like(x)).clamp(0, 1)
        else:
            attack = _art_attack(cell.attack.name, cell.attack.eps or 0, classifier)
            adversarial = torch.from_numpy(np.asarray(attack.generate(x=x.numpy(), y=labels.numpy())))
        with torch.no_grad():
            target(purifier(adversarial)).argmax(dim=1)


def _art_attack(name: str, eps: float, classifier: Any) -> Any:
    from art.attacks.evasion import DeepFool, FastGradientMethod, ProjectedGradientDescent

    if name == "fgsm":
        return FastGradientMethod(classifier, eps=eps, batch_size=100)
    if name == "deepfool":
        return DeepFool(classifier, max_iter=50, epsilon=0.02, batch_size=100, verbose=False)
    settings = {"eps_step": 2.5 * eps / STEPS, "max_iter": STEPS, "num_random_init": 1}
    return ProjectedGradientDescent(classifier, eps=eps, batch_size=100, verbose=False, **settings)


def report() -> None:
    """`bench report` with the start of Python, on a run of 1,000 cells; the run itself takes minutes."""
    radii = [round(0.01 * step, 2) for step in range(1, 26)]
    rounding: list[Mapping[str, object]] = [{"name": "bit-depth", "bits": bits} for bits in (1, 2, 3)]
    smoothing: list[Mapping[str, object]] = [
        {"name": "gaussian-blur", "sigma": sigma} for sigma in (0.5, 1.0)
    ]
    source = {
        "datasets": [{"name": "digits", "n": 50}],
        "targets": ["nearest-mean"],
        "defenses": ["identity", "round8", "jpeg", "median", "gaussian-noise", *rounding, *smoothing],
        "attacks": [{"name": "fgsm", "eps": radii}, {"name": "pgd", "eps": radii, "steps": 3}],
        "threats": ["black-box", "white-box"],
    }
    plugins = [REPOSITORY / "tests" / "plugin_files" / "toy.py"]
    with tempfile.TemporaryDirectory() as folder:
        out, store = Path(folder) / "out", f"{folder}/store"
        prepared = plan_run(source, Silent(), store=store, device="cpu", plugins=plugins)
        execute_run(prepared, Silent(), out)
        bench = [sys.executable, "-m", "benchmark"]
        command = [*bench, "report", str(out), "--store", store, "--plugin", str(plugins[0])]
        took = timed(lambda: subprocess.run(command, check=True, capture_output=True))
        size = (out / "report.html").stat().st_size / 1e6
    print(f"report of {len(prepared.plan.cells)} cells: {took:.1f} s, {size:.1f} MB")


_DRY_RUN = """
import contextlib, importlib, json, sys, time
for name in json.loads(sys.stdin.read() or "[]"):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
from benchmark.execution.observer import Silent
from benchmark.runs import plan_run
from benchmark.cli.summary import dry_run_summary
began = time.perf_counter()
prepared = plan_run("full", Silent(), store=sys.argv[1], plan_only=True)
list(dry_run_summary(prepared))
took = time.perf_counter() - began
print(json.dumps([took, len(prepared.plan.cells), sorted(sys.modules)]))
"""


def dry_run() -> None:
    """`bench run --grid full --dry-run` on an empty store, after all imports."""
    with tempfile.TemporaryDirectory() as store:

        def dry_run_after(modules: list[str]) -> tuple[float, int, list[str]]:
            command = [sys.executable, "-c", _DRY_RUN, store]
            done = subprocess.run(
                command, input=json.dumps(modules), check=True, capture_output=True, text=True
            )
            took, cells, loaded = json.loads(done.stdout.splitlines()[-1])
            return took, cells, loaded

        first, cells, modules = dry_run_after([])
        rest = [dry_run_after(modules)[0] for _ in range(5)]
    without_imports = f"{median(rest):.1f} s without imports (median of 5, minimum {min(rest):.1f})"
    print(f"dry run of {cells} cells: {without_imports}; {first:.1f} s with the imports of the plugins")


if __name__ == "__main__":
    main()
