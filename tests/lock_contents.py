"""The contents of `versions.lock`, and the differences between the lock and the code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from benchmark.api.dataset import Dataset
from benchmark.api.target import Target
from benchmark.errors import UserError
from benchmark.execution.dispatch import code_of
from benchmark.execution.observer import Silent
from benchmark.plan.grid import builtin_grids
from benchmark.plan.tasks import TASK_TYPES
from benchmark.plan.threats import THREATS
from benchmark.plugins.fingerprint import fingerprint
from benchmark.plugins.plugin import Config
from benchmark.plugins.registry import KINDS, Entry, Registry, default_registry
from benchmark.runs import PlannedRun, execute_run, plan_run
from benchmark.storage.keys import SCHEMA, digest
from studies import REPOSITORY
from tests.plan.planned import plan_without_files

LOCK = REPOSITORY / "versions.lock"

GIVEN = {"task external-images": "its images are given"}
"""Kinds of tasks that compute nothing."""

FIGURES: dict[str, Any] = {
    "name": "figures",
    "datasets": [{"name": "digits", "n": 60}],
    "targets": [{"name": "mnist-c", "epochs": 2, "min_steps": 0, "batch_size": 64}],
    "source": "target",
    "defenses": ["identity", "median", {"name": "ape-gan", "epochs": 1, "min_steps": 0, "batch_size": 64}],
    "attacks": [{"name": "fgsm", "eps": 0.1}, {"name": "pgd", "eps": 0.1, "steps": 5}],
    "threats": ["black-box"],
}
"""A grid of a few seconds. The lock has its keys, seeds and numbers of misclassified images."""

_SHOWN = 4

Lock = dict[str, Any]


def contents() -> Lock:
    """The contents of the lock without the figures, computed from the present code."""
    registry = default_registry()
    builtin = [entry for kind in KINDS for entry in registry.entries(kind) if entry.builtin]
    with tempfile.TemporaryDirectory() as store:
        tasks = _first_tasks(plan_of_figures(store))
    return {
        "schema": SCHEMA,
        "versions": dict(sorted(_versions(builtin))),
        "parameters": {title(entry): parameters(entry.load().config_type()) for entry in builtin},
        "exempt": {title(entry): why for entry in builtin if (why := exempt(entry))} | GIVEN,
        "keys": {name: task.key for name, task in tasks.items()},
        "seeds": {name: task.seed_for("init") for name, task in tasks.items()},
        "grids": {name: _grid(name, registry) for name in builtin_grids()},
    }


def title(entry: Entry) -> str:
    """A plugin with its kind, as in the provenance of results."""
    return f"{entry.kind} {entry.name}"


def _versions(builtin: Iterable[Entry]) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in builtin:
        yield title(entry), {"version": entry.load().version, "code": entry.fingerprint()[:16]}
    for kind in TASK_TYPES:
        code = code_of(kind)[:16]
        yield f"task {kind.kind}", {"version": kind.version, "code": code}
    for name, threat in THREATS.items():
        path = Path(__import__(threat.__module__, fromlist=["_"]).__file__)
        code = fingerprint(path, threat.__module__)[:16]
        yield f"threat {name}", {"version": threat.version, "code": code}


def parameters(config: type[Config]) -> dict[str, Any]:
    """The defaults, and the parameters that differ from them for each preset and data set."""
    fields = config.model_fields
    required = {name for name, field in fields.items() if field.is_required()}
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in fields.items()
        if name not in required
    }
    found: dict[str, Any] = {"defaults": defaults}
    for preset, dataset in product((None, *config.presets), (None, *config.per_dataset)):
        parts = [f"preset {preset}"] * bool(preset) + [f"on {dataset}"] * bool(dataset)
        if parts:
            chosen = config(**({"preset": preset} if preset else {}))
            resolved = chosen.on(dataset) if dataset else chosen
            found[" ".join(parts)] = resolved.model_dump(mode="json", exclude_defaults=True)
    return found


def exempt(entry: Entry) -> str | None:
    """Why a plugin has no golden outcome: it needs files from outside; None if it has one.

    Given classifiers need weights, and some data sets need downloads. For a data set that needs a path, the
    lock constructs files.
    """
    plugin = entry.load()
    if issubclass(plugin, Target) and not plugin.trainable:
        return "its weights are given"
    fields = plugin.config_type().model_fields
    if issubclass(plugin, Dataset) and not any(field.is_required() for field in fields.values()):
        with tempfile.TemporaryDirectory() as nothing:
            try:
                plugin(plugin.config_type()(), Path(nothing)).prepare()
            except UserError:
                return "its images have to be fetched"
    return None


def _grid(name: str, registry: Registry) -> dict[str, Any]:
    cells = plan_without_files(name, registry).cells
    return {"cells": len(cells), "keys": digest([cell.key for cell in cells])[:16]}


def plan_of_figures(store: str) -> PlannedRun:
    """The plan of the grid `FIGURES`."""
    return plan_run(FIGURES, Silent(), store=store, device="cpu", zoo=False)


def _first_tasks(prepared: PlannedRun) -> dict[str, Any]:
    """The first task of each kind and plugin."""
    tasks: dict[str, Any] = {}
    for task in prepared.plan.tasks:
        tasks.setdefault(f"{task.kind} {task.label}", task)
    return dict(sorted(tasks.items()))


def figures() -> dict[str, int]:
    """Run the grid `FIGURES`, and return the number of misclassified images of each cell."""
    with tempfile.TemporaryDirectory() as folder:
        finished = execute_run(plan_of_figures(f"{folder}/store"), Silent(), Path(folder) / "out")
    assert not finished.failed
    return {
        f"{row['attack']} on {row['defense']}": round(row["error"] * row["n"]) for row in finished.records
    }


def read() -> Lock:
    """The lock; empty if there is no file."""
    return dict(json.loads(LOCK.read_text(encoding="utf-8"))) if LOCK.is_file() else {}


def write(lock: Lock) -> None:
    """Write the lock, sorted."""
    LOCK.write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Finding:
    """A difference between code and lock, and what it needs.

    `need`: "version" if the version must be raised; "proof" if equal outcomes are enough; "lock" if the lock
    must only be written again.
    """

    message: str
    need: Literal["version", "proof", "lock"]
    title: str = ""


def compare(lock: Lock, now: Lock) -> list[Finding]:
    """The differences between the code and the lock."""
    known, here = lock["versions"], now["versions"]
    findings = [
        Finding(f"{name} {where}: run `make lock`", "lock", name)
        for names, where in (
            (here.keys() - known.keys(), "is not in versions.lock"),
            (known.keys() - here.keys(), "is in versions.lock and nowhere else"),
        )
        for name in sorted(names)
    ]
    for name in sorted(known.keys() & here.keys()):
        findings += _of_version(name, known[name], here[name])
        if known[name]["version"] == here[name]["version"] and name in now["parameters"]:
            findings += _of_parameters(name, lock["parameters"][name], now["parameters"][name])
    return findings + list(_of_names(lock, now)) + list(_of_grids(lock["grids"], now["grids"]))


def report(findings: Iterable[Finding]) -> str:
    """The messages, one per line; if much code changed, one line for all of it."""
    all_findings = list(findings)
    proofs = [finding.title for finding in all_findings if finding.need == "proof"]
    many = len(proofs) > _SHOWN
    lines = [finding.message for finding in all_findings if not (many and finding.need == "proof")]
    if many:
        lines.append(
            f"results of {_some([short(name) for name in proofs])} may change: raise the versions of those "
            "that do, and run `make lock`"
        )
    return "\n".join(lines)


def raised(lock: Lock, now: Lock) -> set[str]:
    """The plugins, kinds and threats whose version is higher than in the lock."""
    known = lock["versions"]
    return {
        name
        for name, entry in now["versions"].items()
        if name in known and entry["version"] > known[name]["version"]
    }


def short(name: str) -> str:
    """The name of a plugin without its kind; tasks and threats keep both words."""
    return name if name.startswith(("task ", "threat ")) else name.partition(" ")[2]


def _of_version(name: str, known: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    before, after = known["version"], here["version"]
    if after < before:
        yield Finding(f"the version of {short(name)} is {after} and was {before}: raise it", "version", name)
    elif after > before:
        yield Finding(f"the version of {short(name)} is {after} and was {before}: run `make lock`", "lock")
    elif known["code"] != here["code"]:
        yield Finding(
            f"results of {short(name)} may change: raise its version, or run `make lock` if they do not",
            "proof",
            name,
        )


def _of_parameters(name: str, known: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    before, after = known["defaults"], here["defaults"]
    for field in sorted(before.keys() & after.keys()):
        if before[field] != after[field]:
            values = f"{_text(after[field])} and was {_text(before[field])}"
            message = f"the default of {field} is {values}: raise the version of {short(name)}"
            yield Finding(message, "version", name)
    if before.keys() != after.keys() or known.keys() != here.keys():
        others = sorted((before.keys() ^ after.keys()) | (known.keys() ^ here.keys()))
        yield Finding(f"parameters of {short(name)} come or go: {', '.join(others)}: run `make lock`", "lock")
    for setting in sorted((known.keys() & here.keys()) - {"defaults"}):
        old, new = before | known[setting], after | here[setting]
        for field in sorted(before.keys() & after.keys()):
            if old[field] != new[field] and before[field] == after[field]:
                yield Finding(
                    f"{field} of {short(name)}, {setting}, is {_text(new[field])} and was "
                    f"{_text(old[field])}, so that its results there have new keys: run `make lock` if "
                    "that is meant",
                    "lock",
                )


def _of_names(lock: Lock, now: Lock) -> Iterator[Finding]:
    """Keys may move with a version or with the schema, seeds with the schema alone."""
    new_schema = now["schema"] > lock["schema"]
    for what, effect, free in (
        ("keys", "stored results are not found any more", new_schema or bool(raised(lock, now))),
        ("seeds", "trainings and draws come out otherwise", new_schema),
    ):
        known, here = lock[what], now[what]
        moved = [name for name in sorted(known.keys() & here.keys()) if known[name] != here[name]]
        if moved and free:
            yield Finding(f"the {what} of {_some(moved)} moved: run `make lock`", "lock")
        elif moved:
            yield Finding(
                f"the {what} of {_some(moved)} moved, so that {effect}: undo it, or raise SCHEMA in "
                "benchmark/storage/keys.py",
                "version",
            )
        elif known.keys() != here.keys():
            yield Finding(f"golden {what} come or go: run `make lock`", "lock")


def _of_grids(known: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    changed = [name for name in sorted(known.keys() | here.keys()) if known.get(name) != here.get(name)]
    if changed:
        message = f"cells of the grid{'s' * (len(changed) > 1)} {_some(changed)} have other keys"
        yield Finding(f"{message}: run `make lock` if that is meant", "lock")


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
