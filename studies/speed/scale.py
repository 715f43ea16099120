"""Does a run stay quick with many cells, and with many workers? Parts of `studies.speed`.

The parts are `planning` and `resume` (10,000 cells), and `workers`. The grid of 10,000 cells has cheap
attacks on few images of `digits`, so that its results are made within minutes. The store is kept if
`BENCH_SCALE` names a folder for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from benchmark.execution.devices import physical_cores
from studies import REPOSITORY

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
    """The same run with one process and with one worker per core, each on a new store, imports included."""
    cores = physical_cores()
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, cores):
            command = [sys.executable, "-m", "benchmark", "run", "--grid", "quick", "--workers", str(count)]
            command += ["--store", f"{folder}/store{count}", "--out", f"{folder}/out{count}", "--no-zoo"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds[count] = time.perf_counter() - begin
            print(f"quick --no-zoo, {count} workers: {seconds[count]:.0f} s", flush=True)
    print(f"{cores} workers: {seconds[1] / seconds[cores]:.2f} × as fast as one process")


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
