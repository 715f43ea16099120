"""`make masks`: the verdicts of the harness on purifiers that hide their weakness, and on honest ones.

Writes `results/studies/masking.csv`, one row per construction and ball. The verdict on a masked construction
is *broken* (its white-box error is at most two points below that of the undefended target), *caught* (it has
a doubt, or its cells failed) or *missed*. The verdict on an honest one is *right* or *false alarm*: it has a
doubt, its cells failed, or its error is above the proven bound.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmark.execution.observer import Silent
from benchmark.results.leaderboard import withholds
from benchmark.runs import PlannedRun, execute_run, plan_run
from studies import REPOSITORY, data_root

TABLE = REPOSITORY / "results" / "studies" / "masking.csv"
PLUGINS = [
    REPOSITORY / "studies" / "masking" / name
    for name in ("purifiers.py", "trained_purifiers.py", "networks.py")
]

VERDICTS = ("broken", "caught", "missed", "right", "false alarm")
_ALLOWANCE = 0.02
_ROUNDING = 1e-9

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Construction:
    """A purifier in front of a network; one of the two may hide its weakness."""

    name: str
    honest: bool
    defense: Entry = field(default_factory=lambda: {"name": "identity"})
    target: Entry = field(default_factory=lambda: {"name": "masked-net", "fault": "none"})


@dataclass(frozen=True)
class Setup:
    """Images, networks, effort of the attacks, and radii of the balls (L∞, L2).

    `wide` balls are for masked constructions: without real robustness they break there. `narrow` balls are
    for honest ones: a network that was trained for them stays robust. Without `thorough` there is no FGSM and
    no black-box row; black-box images count in white-box anyway.
    """

    dataset: str
    n: int
    net: Entry
    robust_net: Entry
    wide: tuple[float, float]
    narrow: tuple[float, float]
    denoiser_steps: int = 200
    steps: int = 20
    thorough: bool = True
    white_box: Entry = field(default_factory=dict)


_DENSE = {"architecture": "dense"}

SETUPS = {
    "digits": Setup("digits", 100, _DENSE, _DENSE | {"steps": 800, "eps": 0.15}, (0.3, 4.0), (0.15, 2.0)),
    "mnist": Setup(
        "mnist",
        100,
        {"architecture": "mnist-c", "steps": 400, "rate": 1e-3},
        {"architecture": "conv", "steps": 3000, "rate": 2e-3, "eps": 0.2},
        wide=(0.3, 4.0),
        narrow=(0.2, 2.0),
        denoiser_steps=400,
    ),
}


def _masked() -> Iterable[Construction]:
    stateless = (
        "shattered", "detached", "clipped", "rounded", "batch-statistics", "constant", "hidden-noise",
        "noise-by-hash", "dropout-left-on", "median-detached", "deep-stack", "half-precision",
        "soft-rounding", "tanh-space", "reversed-gradient", "smoothed-without-gradient",
    )  # fmt: skip
    for how in stateless:
        yield Construction(how, False, {"name": "masked", "how": how})
    others: dict[str, Entry] = {
        "three-bits": {"name": "bit-depth", "bits": 3},
        "jpeg": {"name": "jpeg", "quality": 50},
        "declared-noise": {"name": "gaussian-noise", "std": 0.3},
        "random-resize": {"name": "masked-random-resize"},
        "nearest-training-image": {"name": "masked-memory", "how": "nearest"},
        "batch-size": {"name": "masked-memory", "how": "nearest-in-batches"},
        "answers-near-training": {"name": "masked-memory", "how": "answers-near"},
        "hidden-classifier": {"name": "masked-classifier", "how": "replaces"},
        "exits-early": {"name": "masked-classifier", "how": "exits-early"},
        "cache": {"name": "masked-cache"},
        "three-bits-and-denoiser": {
            "chain": [{"name": "bit-depth", "bits": 3}, {"name": "small-denoiser", "hides": "nothing"}]
        },
        "three-bits-and-autoencoder": {
            "chain": [
                {"name": "bit-depth", "bits": 3},
                {"name": "small-denoiser", "net": "bottleneck", "hides": "nothing"},
            ]
        },
        "autoencoder-and-jpeg": {
            "chain": [
                {"name": "small-denoiser", "net": "bottleneck", "hides": "nothing"},
                {"name": "jpeg", "quality": 20},
            ]
        },
    }
    for name, defense in others.items():
        yield Construction(name, False, defense)
    ways = (
        "gradient", "when-differentiated", "after-first-call", "from-attacks", "cheaper", "behind-8-bits",
        "behind-8-levels", "straight-through",
    )  # fmt: skip
    for hides in ways:
        yield Construction(f"denoiser-hides-{hides}", False, {"name": "small-denoiser", "hides": hides})
    for hides in ("gradient", "behind-8-levels"):
        defense = {"name": "small-denoiser", "net": "bottleneck", "hides": hides}
        yield Construction(f"autoencoder-hides-{hides}", False, defense)
    greys = {"name": "small-denoiser", "net": "thumbnail", "hides": "gradient"}
    yield Construction("thumbnail-of-4-greys", False, greys)
    for hides in ("after-first-call", "from-attacks"):
        defense = {"name": "small-random-denoiser", "hides": hides, "std": 0.02}
        yield Construction(f"random-denoiser-hides-{hides}", False, defense)
    calls_itself_random = {"name": "small-random-denoiser", "hides": "from-attacks", "std": 0.0}
    yield Construction("denoiser-calls-itself-random", False, calls_itself_random)
    faults = (
        "temperature", "saturated-sigmoid", "probabilities", "rounded-scores", "clipped-scores",
        "underflowing-logarithm", "sigmoid-stack", "hard-labels", "batch-centred", "three-bits",
        "without-gradients", "dropout-left-on",
    )  # fmt: skip
    for fault in faults:
        yield Construction(f"net-{fault}", False, target={"name": "masked-net", "fault": fault})


def _honest() -> Iterable[Construction]:
    purifiers: dict[str, Entry] = {
        "blur": {"name": "gaussian-blur", "sigma": 1.0},
        "one-bit": {"name": "bit-depth", "bits": 1},
        "median": {"name": "median", "size": 3},
        "contrast": {"name": "contrast"},
        "low-pass": {"name": "low-pass"},
        "denoiser": {"name": "small-denoiser", "hides": "nothing"},
        "autoencoder": {"name": "small-denoiser", "net": "bottleneck", "hides": "nothing"},
        "thumbnail": {"name": "small-denoiser", "net": "thumbnail", "hides": "nothing"},
        "random-denoiser": {"name": "small-random-denoiser", "hides": "nothing", "std": 0.02},
        "small-noise": {"name": "gaussian-noise", "std": 0.05},
        "blur-and-contrast": {"chain": [{"name": "gaussian-blur", "sigma": 1.0}, {"name": "contrast"}]},
    }
    for name, defense in purifiers.items():
        yield Construction(name, True, defense)
    yield Construction("adversarial-training", True, target={"name": "adversarial-net"})
    yield Construction("interval-training", True, target={"name": "interval-net"})
    yield Construction(
        "adversarial-training-and-noise",
        True,
        {"name": "gaussian-noise", "std": 0.05},
        {"name": "adversarial-net"},
    )


UNDEFENDED = Construction("identity", honest=True)

COLLECTION: tuple[Construction, ...] = (*_masked(), UNDEFENDED, *_honest())


def grid(setup: Setup, collection: Sequence[Construction] = COLLECTION) -> dict[str, Any]:
    """The grid of a collection: one block per target and balls, each with the undefended target."""
    blocks: dict[str, dict[str, Any]] = {}
    for construction in collection:
        linf, l2 = balls = _balls(setup, construction)
        attacks: list[dict[str, Any]] = [
            {"name": "pgd", "eps": linf, "steps": setup.steps},
            {"name": "pgd", "eps": l2, "distance": "l2", "steps": setup.steps},
        ]
        if setup.thorough:
            attacks.append({"name": "fgsm", "eps": linf})
        for member in (UNDEFENDED, construction):
            target, defense = _target(setup, member), _defense(setup, member)
            block = {"targets": [target], "defenses": [], "attacks": attacks}
            defenses = blocks.setdefault(json.dumps([target, balls]), block)["defenses"]
            if defense not in defenses:
                defenses.append(defense)
    common = {
        "datasets": [{"name": setup.dataset, "n": setup.n}],
        "source": "target",
        "threats": [*(["black-box"] if setup.thorough else []), {"name": "white-box", **setup.white_box}],
    }
    return {"name": f"masks-{setup.dataset}", "blocks": [common | block for block in blocks.values()]}


def _balls(setup: Setup, construction: Construction) -> tuple[float, float]:
    return setup.narrow if construction.honest else setup.wide


def _target(setup: Setup, construction: Construction) -> dict[str, Any]:
    net = setup.net if construction.target["name"] == "masked-net" else setup.robust_net
    return {**construction.target, **net}


def _defense(setup: Setup, construction: Construction) -> dict[str, Any]:
    trained = {"net": "convolutional", "steps": setup.denoiser_steps, "eps": setup.wide[0]}
    parts = [
        {**(trained if part["name"] in ("small-denoiser", "small-random-denoiser") else {}), **part}
        for part in construction.defense.get("chain", [construction.defense])
    ]
    return {"chain": parts} if "chain" in construction.defense else parts[0]


def run_collection(
    setup: Setup, out: Path, collection: Sequence[Construction] = COLLECTION, **options: Any
) -> pd.DataFrame:
    """Run the grid, and return one row per construction and ball, with its verdict.

    Args:
        setup: Images, networks, attacks and balls.
        out: Folder for the files of the run.
        collection: The constructions.
        **options: `data`, `store`, `device` as in `bench run`.
    """
    observer = Silent()
    planned = plan_run(grid(setup, collection), observer, plugins=PLUGINS, **options)
    execute_run(planned, observer, out)
    board, records = (pd.read_csv(out / name) for name in ("leaderboard.csv", "records.csv"))
    undefended = _of(board, setup, UNDEFENDED)
    rows: list[dict[str, Any]] = []
    for construction in collection:
        own, cells = _of(board, setup, construction), _of(records, setup, construction)
        reasons = cells.loc[cells["status"].isin(["failed", "budget"]), "reason"]
        for norm, eps in zip(("linf", "l2"), _balls(setup, construction), strict=True):
            white_box = _ball(own, "white-box", norm, eps)
            row = {
                "name": construction.name,
                "kind": "honest" if construction.honest else "masked",
                **{column: white_box[column] for column in ("norm", "eps", "n", "clean_error")},
                "undefended": _ball(undefended, "white-box", norm, eps)["error"],
                "black_box": _ball(own, "black-box", norm, eps)["error"] if setup.thorough else None,
                "white_box": white_box["error"],
                "not_certified": _not_certified(planned, construction, norm, eps),
                "flags": white_box["flags"] if isinstance(white_box["flags"], str) else "",
                "reason": reasons.iloc[0] if len(reasons) else "",
            }
            rows.append(row | {"verdict": verdict(row)})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


_CONSTRUCTION = ["target", "target_config", "defense", "defense_config"]


def _of(table: pd.DataFrame, setup: Setup, construction: Construction) -> pd.DataFrame:
    """The rows of a construction, in a table with resolved parameters."""
    defense, wanted = _defense(setup, construction), _target(setup, construction)
    parts = defense.get("chain", [defense])
    title = "+".join(part["name"] for part in parts)

    def matches(target: str, target_config: str, name: str, config: str) -> bool:
        if (target, name) != (wanted["name"], title):
            return False
        own = json.loads(config)
        both = zip([wanted, *parts], [json.loads(target_config), *own.get("chain", [own])], strict=True)
        return all(_has(resolved, entry) for entry, resolved in both)

    (found,) = (rows for key, rows in table.groupby(_CONSTRUCTION) if matches(*map(str, key)))
    return found


def _has(resolved: Entry, entry: Entry) -> bool:
    """Whether resolved parameters have the values of an entry of a grid."""
    return all(resolved[name] == value for name, value in entry.items() if name != "name")


def _ball(rows: pd.DataFrame, threat: str, norm: str, eps: float) -> pd.Series[Any]:
    found: pd.DataFrame = rows[(rows["threat"] == threat) & (rows["norm"] == norm) & (rows["eps"] == eps)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows for {threat}, {norm} {eps:g}")
    row: pd.Series[Any] = found.iloc[0]
    return row


def _not_certified(planned: PlannedRun, construction: Construction, norm: str, eps: float) -> float | None:
    """The share of images without a proof of robustness; None if the network gives no proof in this ball."""
    if construction.target["name"] != "interval-net" or norm != "linf":
        return None
    cell = next(c for c in planned.plan.cells if c.target.target.name == "interval-net")
    net: Any = planned.context.target(cell.target)
    images, labels = zip(*(planned.context.clean(score.shard) for score in cell.scores), strict=True)
    return float(net.not_certified(torch.cat(images), torch.cat(labels), eps).float().mean())


def verdict(row: Mapping[str, Any]) -> str:
    """The verdict of a row, one of `VERDICTS`."""
    doubted = bool(row["reason"]) or any(map(withholds, row["flags"].split()))
    if row["kind"] == "honest":
        proven = row["not_certified"]
        impossible = proven is not None and row["white_box"] > proven + _ROUNDING
        return "false alarm" if doubted or impossible else "right"
    if row["white_box"] >= row["undefended"] - _ALLOWANCE - _ROUNDING:
        return "broken"
    return "caught" if doubted else "missed"


def worst(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of each construction with the worst verdict for the harness: one wrong ball is enough."""
    order = ("missed", "false alarm", "caught", "broken", "right")
    place = rows["verdict"].map(order.index)
    selected: pd.DataFrame = rows.loc[place.groupby(rows["name"], sort=False).idxmin()]
    return selected


def replace_rows(table: pd.DataFrame | None, rows: pd.DataFrame) -> pd.DataFrame:
    """The table, in which these rows replace all rows of the same data set and preset."""
    if table is None:
        return rows
    kept = [tuple(pair) not in set(_settings(rows)) for pair in _settings(table)]
    merged: pd.DataFrame = pd.concat([table[kept], rows], ignore_index=True)
    return merged


def _settings(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(table[["dataset", "preset"]].itertuples(index=False, name=None))


def main() -> None:
    """Run the collection, write its table, and print the verdicts."""
    parser = argparse.ArgumentParser(prog="python -m studies.masking.table")
    parser.add_argument("dataset", nargs="?", default="digits", choices=list(SETUPS))
    parser.add_argument("--n", type=int, help="number of images")
    parser.add_argument("--preset", default="fast", help="preset of the white-box attacks, as in a grid")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these; the table is not written")
    options = parser.parse_args()
    setup = SETUPS[options.dataset]
    setup = replace(setup, n=options.n or setup.n, white_box={"preset": options.preset})
    if setup.dataset == "mnist" and data_root() is None:
        raise SystemExit("the masks of MNIST need its files: name their folder with BENCH_DATA")
    wanted = options.only or [construction.name for construction in COLLECTION]
    collection = [c for c in COLLECTION if c.name in wanted]
    out = REPOSITORY / "results" / "runs" / f"masks-{setup.dataset}"
    rows = run_collection(setup, out, collection, data=data_root())
    print(worst(rows).drop(columns=["eps", "n"]).to_string(index=False, na_rep="", max_colwidth=60))
    counts = Counter(worst(rows)["verdict"])
    print(", ".join(f"{counts[name]} {name}" for name in VERDICTS))
    if not options.only:
        rows.insert(0, "dataset", setup.dataset)
        rows.insert(1, "preset", options.preset)
        table = replace_rows(pd.read_csv(TABLE) if TABLE.is_file() else None, rows)
        table.to_csv(TABLE, index=False, float_format="%.4g")
        print(f"written: {TABLE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
