"""Golden outcomes: the results of every built-in plugin, kind of task and threat on a few images.

`python -m tests.lock_outcomes FILE [NAME …]` computes them on one CPU thread and writes a JSON mapping. With
names it computes only the grids that run one of these plugins, kinds or threats. The names of the mapping are
keys of results. The values are `name`, `dataset`, `of` (the plugins and kinds that run), `needs` (keys of the
results on which it depends) and `parts` (digests of tensors, columns and numbers). `make lock` runs this
program in two trees and compares the outputs. The trees share only this format.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import typing
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from benchmark.api.attack import Attack
from benchmark.api.target import Target
from benchmark.execution import train_bpda_network as mimic
from benchmark.execution.context import address
from benchmark.execution.executor import execute
from benchmark.execution.observer import Silent
from benchmark.plan.tasks import Score, Task
from benchmark.plugins.plugin import Plugin
from benchmark.plugins.registry import default_registry
from benchmark.runs import PlannedRun, plan_run
from benchmark.storage.environment import fixed_threads
from benchmark.storage.store import Store
from tests.lock_contents import exempt

STEPS = 3
"""The largest number of steps of a training."""

_TARGET_STEPS = 10
"""For classifiers: attacks must start at images with different predicted classes."""

_SMALL: Mapping[str, Any] = {
    "eps": 0.1,
    "epochs": 1,
    "min_steps": 0,
    "batch_size": 8,
    "steps": 3,
    "search_steps": 2,
    "restarts": 1,
    "classes": 2,
    "check_every": 0,
    "critic_steps": 1,
    "encoder_steps": 3,
    "iterations": 2,
    "attack_iterations": 2,
    "latent": 4,
    "gamma": 0.01,
    "first_queries": 10,
    "most_queries": 50,
}
"""Small values for the fields of these names, whichever plugin has them."""

_LIMITS = ((Plugin, "step_limit", STEPS), (Target, "step_limit", _TARGET_STEPS), (mimic, "_STEPS", STEPS))

_NO_FIELD = FieldInfo(default=None)

_TIMES = frozenset({"seconds", "costs", "task", "made"})
"""Metadata of results that depend on time, or repeat the key."""


def small(plugin: type[Plugin[Any]], **more: Any) -> dict[str, Any]:
    """A plugin as an entry of a grid, with `more` and the small settings that it accepts."""
    config = plugin.config_type()
    entry = {"eps": _SMALL["eps"]} if config.model_fields.get("eps", _NO_FIELD).is_required() else {}
    entry |= more
    for name in config.model_fields.keys() & _SMALL.keys() - entry.keys():
        with suppress(ValidationError):  # a parameter of another library, or a bound above this value
            config(**entry | {name: _SMALL[name]})
            entry[name] = _SMALL[name]
    config(**entry)
    return {"name": plugin.name} | entry


def _loaded(kind: str) -> Iterator[type[Plugin[Any]]]:
    """The built-in plugins of a kind that are not exempt."""
    for entry in default_registry().entries(kind):
        if entry.builtin and exempt(entry) is None:
            yield entry.load()


def grids() -> Iterator[dict[str, Any]]:
    """The grids of the golden outcomes; paths are relative to the folder of `construct`."""
    fgsm = {"name": "fgsm", "eps": 0.1}
    plain = {"defenses": ["identity"], "attacks": [fgsm], "threats": ["black-box"]}
    white_box = {"name": "white-box", "eot": 2, "bank": 10}
    gray_box = {"name": "gray-box", "eot": 2, "copies": 1}
    for target in _loaded("target"):
        on = _COLOUR if _takes(target, (3, 32, 32)) else _DIGITS
        yield on | plain | {"targets": [small(target, batch_size=2)]}
    hardened = {**_DIGITS["targets"][0], "adversarial": {"attack": "pgd", "eps": 0.1, "steps": 1}}
    yield _DIGITS | plain | {"targets": [hardened]}
    for defense in _loaded("defense"):
        behind = plain | {"defenses": [small(defense)]}
        yield _DIGITS | behind | {"threats": ["black-box", white_box]}
        yield _COLOUR | behind
    for attack in _loaded("attack"):
        assert issubclass(attack, Attack)
        threats = ["black-box", *(["query"] if attack.uses in ("scores", "labels") else [])]
        for on in (_DIGITS, _COLOUR):
            yield on | plain | {"attacks": list(_variants(attack)), "threats": threats}
    yield from _threats(white_box, gray_box)


def _threats(white_box: dict[str, Any], gray_box: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every threat against a trained and a random defense, and settings of single attacks and threats."""
    registry = default_registry()
    pgd, advgan, latent = (
        small(registry.get("attack", name).load()) for name in ("pgd", "advgan", "on-manifold")
    )
    magnet, gan = (small(registry.get("defense", name).load()) for name in ("magnet", "defense-gan"))
    strong = {**white_box, "preset": "strong"}
    random = ["gaussian-noise", {"chain": ["gaussian-noise", "median"]}]
    judged = {**white_box, "judge": "majority-3"}
    transfer = _COLOUR | {"defenses": [magnet], "threats": ["transfer"]}
    yield transfer | {"attacks": [advgan]}
    yield transfer | {"attacks": [pgd], "threats": ["transfer", gray_box, strong]}
    yield _DIGITS | {"defenses": random, "attacks": [pgd], "threats": [judged]}
    # with fewer steps it is not a required attack, and some checks do not run
    full = {"attacks": [{**pgd, "steps": 10}], "threats": [white_box], "sanity": "full"}
    yield _DIGITS | full | {"defenses": [magnet]}
    yield _DIGITS | {"defenses": [gan], "attacks": [latent], "threats": [white_box]}


def _variants(attack: type[Attack[Any]]) -> Iterator[dict[str, Any]]:
    """The attack with each of its libraries, distances and losses, and targeted."""
    fields = attack.config_type().model_fields
    for backend in typing.get_args(fields["backend"].annotation) if "backend" in fields else (None,):
        yield small(attack, **({} if backend is None else {"backend": backend}))
    for name in ("distance", "loss"):
        for value in typing.get_args(fields[name].annotation)[1:] if name in fields else ():
            yield small(attack, **{name: value})
    if "targeted" in fields:
        yield small(attack, targeted="next")


def _takes(target: type[Plugin[Any]], shape: tuple[int, int, int]) -> bool:
    try:
        target(target.config_type()(), shape, 10)  # type: ignore[call-arg]
    except ValueError:
        return False
    return True


def construct(folder: Path) -> None:
    """Write the constructed images: colour.npz (3×32×32) and a folder of pictures."""
    values = np.random.RandomState(0)
    images = {
        name: values.randint(0, 256, (count, 32, 32, 3)) for name, count in (("train", 60), ("test", 20))
    }
    arrays = {}
    for name, given in images.items():
        labels = np.arange(len(given)) % 10
        given[np.arange(len(given)), :, labels * 3] //= 3  # something to learn
        arrays |= {f"{name}_images": given.astype(np.uint8), f"{name}_labels": labels}
        for index, label in enumerate(labels[:10]):
            place = folder / "pictures" / name / f"class-{label % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(given[index].astype(np.uint8)).save(place / f"{index}.png")
    np.savez(folder / "colour.npz", **arrays)


_DIGITS: dict[str, Any] = {
    "datasets": [{"name": "digits", "n": 4}],
    "targets": [{"name": "mnist-a", "epochs": 1, "min_steps": 0, "batch_size": 32}],
}
_COLOUR: dict[str, Any] = {
    "datasets": [{"name": "npz", "path": "colour.npz", "n": 4}],
    "targets": [{"name": "advgan-cnn", "epochs": 1, "min_steps": 0, "batch_size": 8}],
    "source": "target",
}
_PICTURES: dict[str, Any] = {"datasets": [{"name": "folder", "path": "pictures", "size": 32}]}


class _Failures(Silent):
    """Keeps the reasons of tasks that failed."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def failed(self, task: Task, reason: str) -> None:
        self.reasons.setdefault(f"{task.kind} {task.label}", reason)


def planned(folder: Path, observer: Silent | None = None) -> Iterator[PlannedRun]:
    """The planned golden grids, with a store in the folder of the constructed images."""
    for grid in grids():
        yield plan_run(
            {"name": "golden"} | {name: value for name, value in grid.items() if name != "sanity"},
            observer or Silent(),
            data=folder,
            store=folder / "store",
            device="cpu",
            zoo=False,
            sanity=grid.get("sanity", "fast"),
            folder=folder,
        )


def outcomes(folder: Path, wanted: Collection[str] = ()) -> dict[str, Any]:
    """The golden outcomes by key: name, plugins, dependencies and digests.

    Args:
        folder: An empty folder.
        wanted: Plugins, kinds of tasks and threats, as `titles` names them: only grids with one of them are
            computed; all grids if it is empty.

    Raises:
        SystemExit: All tasks of a plugin or of a kind failed. A single failure is allowed, such as an attack
            without a starting point.
    """
    construct(folder)
    observer = _Failures()
    found: dict[str, Any] = dict(_images(folder))
    with ExitStack() as stack:
        stack.enter_context(fixed_threads(1))
        for owner, name, limit in _LIMITS:
            stack.enter_context(patch.object(owner, name, limit))
        for prepared in planned(folder, observer):
            if wanted and not any(set(wanted) & set(titles(task)) for task in prepared.plan.tasks):
                continue
            execute(prepared.plan, prepared.context, observer)
            for task in prepared.plan.tasks:
                found.setdefault(_key(task), _outcome(task, prepared))
    tried = {name for outcome in found.values() for name in outcome["of"]}
    done = {name for outcome in found.values() for name in outcome["of"] if outcome["parts"] != _FAILED}
    if tried != done:
        raise SystemExit(f"{sorted(tried - done)} always failed: {observer.reasons}")
    return found


def titles(task: Task) -> tuple[str, ...]:
    """The kind, the plugins and the threat that a task runs."""
    threat = [f"threat {task.threat[0]}"] if isinstance(task, Score) else []
    return tuple(
        dict.fromkeys([f"task {task.kind}", *(f"{ref.kind} {ref.name}" for ref in task.runs), *threat])
    )


def _key(task: Task) -> str:
    """The key of the result with the limits of this program: shorter trainings have other outcomes."""
    return "-".join([task.key, *(str(limit) for *_, limit in _LIMITS)])


def _outcome(task: Task, prepared: PlannedRun) -> dict[str, Any]:
    return {
        "name": f"{task.kind} of {task.label}",
        "dataset": prepared.plan.cells[0].dataset.name,
        "of": titles(task),
        "needs": [_key(need) for need in task.needs()],
        "parts": _parts(task, prepared.context.store),
    }


def _parts(task: Task, store: Store) -> dict[str, str]:
    """Digests of the stored result of a task, without times."""
    place = address(task)
    meta = store.meta(place)
    if meta is None:
        return _FAILED
    if isinstance(task, Score):
        table = store.get_table(place)
        payload = {name: table.column(name).to_pylist() for name in table.column_names}
    else:
        payload = store.get_tensors(place) or {}
    kept = {name: value for name, value in meta.items() if name not in _TIMES}
    return {name: _digest(value) for name, value in (payload | kept).items()}


_FAILED = {"failed": "yes"}
"""The parts of a failed task."""


def _digest(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        content = f"{value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes()
    else:
        content = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _images(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Outcomes of data sets: no stored result contains the images themselves."""
    registry = default_registry()
    for grid in (_DIGITS, _COLOUR, _PICTURES):
        entry = {name: value for name, value in grid["datasets"][0].items() if name != "n"}
        plugin = registry.get("dataset", entry.pop("name")).load()
        opened: Any = plugin(plugin.config_type()(**entry), folder)
        opened.prepare()
        splits = vars(opened.splits())
        parts = {name: split.take(torch.arange(min(10, len(split)))) for name, split in splits.items()}
        labels = {f"labels of {name}": split.labels for name, split in splits.items()}
        yield (
            f"images of {plugin.name} {plugin.version}",
            {
                "name": "images",
                "dataset": plugin.name,
                "of": [f"dataset {plugin.name}"],
                "needs": [],
                "parts": {name: _digest(value) for name, value in (parts | labels).items()},
            },
        )


def main(file: str, *wanted: str) -> None:
    """Compute the golden outcomes, and write them."""
    with tempfile.TemporaryDirectory() as folder:
        found = outcomes(Path(folder), wanted)
    Path(file).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
