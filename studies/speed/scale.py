"""Does a run stay quick with many cells, and with many workers? Parts of `studies.speed`.

The parts are `planning` and `resume` (10,000 cells), and `workers`. The grid of 10,000 cells has cheap
attacks on few images of `digits`, so that its results are made within minutes. The store is kept if
`BENCH_SCALE` names a folder for it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.execution.devices import physical_cores
from benchmark.plan.grid import find_grid
from benchmark.plan.yaml_lines import read_yaml
from studies import REPOSITORY, data_root

_ROUNDS = 3
_PLUGIN = REPOSITORY / "tests" / "plugin_files" / "toy.py"

_MEASURED = """
import contextlib, gc, importlib, json, resource, sys, time
grid, plugin, store, out, modules = json.loads(sys.stdin.read())
for name in modules:
    with contextlib.suppress(Exception):
        importlib.import_module(name)
from benchmark.cli.summary import dry_run_summary
from benchmark.execution.observer import Silent
from benchmark.runs import execute_run, plan_run
began = time.perf_counter()
prepared = plan_run(grid, Silent(), store=store, device="cpu", plugins=[plugin], plan_only=out is None)
planned = time.perf_counter()
if out is not None:
    from pathlib import Path
    execute_run(prepared, Silent(), Path(out))
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
sizes = [len(prepared.plan.cells), len(prepared.plan.tasks)]
print(json.dumps([planned - began, done - planned, peak, *sizes, sorted(sys.modules)]))
"""

_PASSES = """
import time, torch
from benchmark.targets.loading.recipe import RecipeConfig
from benchmark.targets.mnist_cnn import MnistC
model, images = MnistC(RecipeConfig(), (1, 28, 28), 10).eval(), torch.rand(100, 1, 28, 28)
passes, begin = -5, time.perf_counter()
while passes < 0 or time.perf_counter() - begin < 8:
    begin = begin if passes > 0 else time.perf_counter()
    torch.autograd.grad(model(images.requires_grad_()).sum(), images)
    passes += 1
print(passes / (time.perf_counter() - begin))
"""


def grid() -> dict[str, Any]:
    """A grid of 10,000 cells: 9,000 black-box and 1,000 white-box."""
    data = {"datasets": [{"name": "digits", "n": 10}], "targets": ["nearest-mean"]}
    radii = [round(0.001 * step, 3) for step in range(1, 126)]
    fgsm: Mapping[str, object] = {"name": "fgsm", "eps": radii}
    noise: Mapping[str, object] = {"name": "uniform-noise", "eps": radii}
    blurs = [{"name": "gaussian-blur", "sigma": round(0.1 * step, 1)} for step in range(1, 28)]
    rounding = [{"name": "bit-depth", "bits": bits} for bits in range(1, 9)]
    many = {"defenses": ["identity", *rounding, *blurs], "attacks": [fgsm, noise], "threats": ["black-box"]}
    few = {
        "defenses": ["identity", *blurs[:7]],
        "attacks": [fgsm],
        "threats": ["white-box"],
    }
    return {"name": "scale", "blocks": [data | many, data | few]}


def planning() -> None:
    """Seconds and peak memory of planning the grid, after all imports."""
    with tempfile.TemporaryDirectory() as store:
        _, _, _, cells, tasks, modules = _measure(store, None, [])
        rounds = [_measure(store, None, modules) for _ in range(_ROUNDS)]
    seconds, peak = median(took for took, *_ in rounds), max(peak for _, _, peak, *_ in rounds)
    print(
        f"planning {cells:,} cells, {tasks:,} tasks: {seconds:.1f} s without imports (median of {_ROUNDS}); "
        f"peak memory of the process {peak:.0f} MB"
    )


def resume() -> None:
    """Seconds of a second run of the grid, whose results are all in the store, after all imports."""
    with _folder() as folder:
        store, out = f"{folder}/store", f"{folder}/out"
        first = _measure(store, out, [])
        print(f"run of {first[3]:,} cells: {first[0] + first[1]:.0f} s with imports", flush=True)
        rounds = [_measure(store, out, first[-1]) for _ in range(_ROUNDS)]
    plan, rest = (median(each[part] for each in rounds) for part in (0, 1))
    print(
        f"resuming a finished run of {first[3]:,} cells: {plan + rest:.1f} s without imports "
        f"({plan:.1f} s planning, {rest:.1f} s for the results and files; medians of {_ROUNDS}); "
        f"peak memory {max(each[2] for each in rounds):.0f} MB"
    )


def workers() -> None:
    """`quick` and the grid `defenses` with one process and with one worker per core, imports included.

    `quick` trains; the defenses are trained before. One process is also measured with a thread per core.
    """
    cores = physical_cores()
    alone, together = _bare_passes(1), _bare_passes(cores)
    print(f"bare passes in {cores} processes: {together / alone:.2f} × as many as in one", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        _compare(Path(folder), "quick", ("--no-zoo",), cores)
        if (root := data_root()) is None:
            print("defenses: skipped, it needs the MNIST files: name their folder with BENCH_DATA")
            return
        grid, trainings = Path(folder) / "defenses.json", Path(folder) / "trainings.json"
        grid.write_text(json.dumps(_defenses()))  # JSON is YAML
        trainings.write_text(json.dumps(_defenses() | {"attacks": ["noise"], "threats": ["black-box"]}))
        data = ("--data", str(_small_mnist(root, Path(folder) / "data")))
        _run(str(trainings), Path(folder) / "trained", *data, workers=cores, threads=1)
        _compare(Path(folder), str(grid), data, cores, trained=Path(folder) / "trained" / "store")


def _bare_passes(processes: int) -> float:
    """Forward and backward passes of mnist-c per second in so many processes at once: the machine's limit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _PASSES]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in started)


def _small_mnist(root: Path, folder: Path) -> Path:
    """A copy of MNIST with its first 7,000 training images, of which 5,000 are for validation."""
    raw, count = folder / "MNIST" / "raw", 7000
    raw.mkdir(parents=True)
    for file in (root / "MNIST" / "raw").glob("*-ubyte"):
        content = file.read_bytes()
        if file.name.startswith("train"):  # a header with the number of items, then the items
            start, size = (16, 28 * 28) if "images" in file.name else (8, 1)
            content = content[:4] + count.to_bytes(4, "big") + content[8 : start + count * size]
        (raw / file.name).write_bytes(content)
    return folder


def _defenses() -> dict[str, Any]:
    """The grid `defenses` with 100 images and shorter trainings, without Defense-GAN, which takes hours."""
    block: dict[str, Any] = read_yaml(find_grid("defenses")).data["blocks"][0]
    short = {
        "magnet": {"epochs": 1, "min_steps": 0},
        "ape-gan": {"epochs": 1, "min_steps": 0},
        "iso-gan": {"epochs": 1, "min_steps": 0},
        "puvae": {"epochs": 1, "min_steps": 0},
    }

    def shortened(entry: Any) -> dict[str, Any]:
        if isinstance(entry, str):
            return {"name": entry} | short.get(entry, {})
        if "chain" in entry:
            return {"chain": [shortened(part) for part in entry["chain"]]}
        return dict(entry) | short.get(entry["name"], {})

    defenses = [shortened(entry) for entry in block["defenses"]]
    return block | {"name": "speed", "datasets": [{"name": "mnist", "n": 100}], "defenses": defenses}


def _compare(
    folder: Path, grid: str, options: tuple[str, ...], cores: int, trained: Path | None = None
) -> None:
    """Print the seconds of the same run with one thread, one process with all threads, and all workers."""
    seconds = {}
    for count, threads in ((1, 1), (1, cores), (cores, 1)):
        place = folder / f"{Path(grid).stem}-{count}-{threads}"
        if trained is not None:
            shutil.copytree(trained, place / "store")
        seconds[count, threads] = _run(grid, place, *options, workers=count, threads=threads)
        print(
            f"{Path(grid).stem}, {count} processes of {threads} threads: {seconds[count, threads]:.0f} s",
            flush=True,
        )
    one, many = (seconds[1, threads] / seconds[cores, 1] for threads in (1, cores))
    print(
        f"{Path(grid).stem}, {cores} workers: {one:.2f} × as fast as one process with one thread, "
        f"{many:.2f} × as fast as one with {cores} threads"
    )


def _run(grid: str, place: Path, *options: str, workers: int, threads: int) -> float:
    command = [sys.executable, "-m", "benchmark", "run", "--grid", grid, "--workers", str(workers), *options]
    command += ["--store", str(place / "store"), "--out", str(place / "out"), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - begin


@contextmanager
def _folder() -> Iterator[str]:
    if kept := os.environ.get("BENCH_SCALE"):
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def _measure(store: str, out: str | None, modules: list[str]) -> tuple[Any, ...]:
    """Plan the grid in a new process that first imports `modules`; run it if there is a folder `out`."""
    command = [sys.executable, "-c", _MEASURED]
    arguments = json.dumps([grid(), str(_PLUGIN), store, out, modules])
    done = subprocess.run(command, input=arguments, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))
