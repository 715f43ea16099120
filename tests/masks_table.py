"""`make masks`: what the harness says of purifiers that hide their weakness, and of honest ones.

Writes `results/masks.csv`, a row for each construction and ball. What a masked one comes to is *broken* (in
white-box its error is that of the undefended target, less two points at most), *caught* (in doubt, or failed)
or *missed*; an honest one is *right* or a *false alarm*: doubted, failed, or less robust than is proven.
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

from benchmark.display import Silent
from benchmark.leaderboard import withholds
from benchmark.runs import Prepared, prepare, run_prepared
from tests.conftest import REPOSITORY, data_root

TABLE = REPOSITORY / "results" / "masks.csv"
PLUGINS = [REPOSITORY / "tests" / name for name in ("masks.py", "masks_nets.py")]

VERDICTS = ("broken", "caught", "missed", "right", "false alarm")
_ALLOWANCE = 0.02
_ROUNDING = 1e-9

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Construction:
    """A purifier in front of a net; either may be the one that hides something."""

    name: str
    honest: bool
    defense: Entry = field(default_factory=lambda: {"name": "identity"})
    target: Entry = field(default_factory=lambda: {"name": "masked-net", "fault": "none"})


@dataclass(frozen=True)
class Setup:
    """What the collection is tried on: images, nets, how hard attacks try, and the radii of balls.

    Masked ones meet balls (L∞, L2) in which nothing stands that is not robust, honest ones such as a net that
    was trained for them holds out in. What is not thorough leaves out FGSM, and the
    black-box rows, whose images count in white-box anyway.
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
    """The grid that tries a collection: a block for each target and its balls, with what is undefended."""
    blocks: dict[str, dict[str, Any]] = {}
    for construction in collection:
        linf, l2 = balls = _balls(setup, construction)
        attacks: list[dict[str, Any]] = [
            {"name": "pgd", "eps": linf, "steps": setup.steps},
            {"name": "pgd", "eps": l2, "distance": "l2", "steps": setup.steps},
        ]
        if setup.thorough:
            attacks.append({"name": "fgsm", "eps": linf})
        for each in (UNDEFENDED, construction):
            target, defense = _target(setup, each), _defense(setup, each)
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


def tried(
    setup: Setup, out: Path, collection: Sequence[Construction] = COLLECTION, **options: Any
) -> pd.DataFrame:
    """Run the grid into `out`; a row for each construction and ball, with its verdict.

    Args:
        setup: What to try it on.
        out: Folder for the files of the run.
        collection: What to try.
        **options: `data`, `store`, `device` as in `bench run`.
    """
    observer = Silent()
    prepared = prepare(grid(setup, collection), observer, plugins=PLUGINS, **options)
    run_prepared(prepared, observer, out)
    board, records = (pd.read_csv(out / name) for name in ("leaderboard.csv", "records.csv"))
    undefended = _of(board, setup, UNDEFENDED)
    rows = []
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
                "not_certified": _not_certified(prepared, construction, norm, eps),
                "flags": white_box["flags"] if isinstance(white_box["flags"], str) else "",
                "reason": reasons.iloc[0] if len(reasons) else "",
            }
            rows.append(row | {"verdict": verdict(row)})
    return pd.DataFrame(rows)


_CONSTRUCTION = ["target", "target_config", "defense", "defense_config"]


def _of(table: pd.DataFrame, setup: Setup, construction: Construction) -> pd.DataFrame:
    """The rows of a construction, in a table with the parameters as resolved."""
    defense, wanted = _defense(setup, construction), _target(setup, construction)
    parts = defense.get("chain", [defense])
    title = "+".join(part["name"] for part in parts)

    def same(target: str, target_config: str, name: str, config: str) -> bool:
        if (target, name) != (wanted["name"], title):
            return False
        own = json.loads(config)
        both = zip([wanted, *parts], [json.loads(target_config), *own.get("chain", [own])], strict=True)
        return all(_within(given, resolved) for given, resolved in both)

    (found,) = (rows for key, rows in table.groupby(_CONSTRUCTION) if same(*key))
    return found


def _within(given: Entry, resolved: Entry) -> bool:
    return all(resolved[name] == value for name, value in given.items() if name != "name")


def _ball(rows: pd.DataFrame, threat: str, norm: str, eps: float) -> pd.Series:
    found = rows[(rows["threat"] == threat) & (rows["norm"] == norm) & (rows["eps"] == eps)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows for {threat}, {norm} {eps:g}")
    return found.iloc[0]


def _not_certified(prepared: Prepared, construction: Construction, norm: str, eps: float) -> float | None:
    """The share of images at which the net cannot be proven right, where it proves anything in this ball."""
    if construction.target["name"] != "interval-net" or norm != "linf":
        return None
    cell = next(c for c in prepared.plan.cells if c.target.target.name == "interval-net")
    net: Any = prepared.workshop.target(cell.target)
    images, labels = zip(*(prepared.workshop.clean(score.shard) for score in cell.scores), strict=True)
    return float(net.not_certified(torch.cat(images), torch.cat(labels), eps).float().mean())


def verdict(row: Mapping[str, Any]) -> str:
    """What a row comes to, of `VERDICTS`: robustness that is claimed must be there, and no other may pass."""
    doubted = bool(row["reason"]) or any(map(withholds, row["flags"].split()))
    if row["kind"] == "honest":
        proven = row["not_certified"]
        impossible = proven is not None and row["white_box"] > proven + _ROUNDING
        return "false alarm" if doubted or impossible else "right"
    if row["white_box"] >= row["undefended"] - _ALLOWANCE - _ROUNDING:
        return "broken"
    return "caught" if doubted else "missed"


def worst(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of each construction that speaks least for the harness: one ball that lies is enough."""
    order = ("missed", "false alarm", "caught", "broken", "right")
    place = rows["verdict"].map(order.index)
    return rows.loc[place.groupby(rows["name"], sort=False).idxmin()]


def renewed(table: pd.DataFrame | None, rows: pd.DataFrame) -> pd.DataFrame:
    """The table with those rows in place of those of the same data set and effort."""
    if table is None:
        return rows
    kept = [tuple(pair) not in set(_settings(rows)) for pair in _settings(table)]
    return pd.concat([table[kept], rows], ignore_index=True)


def _settings(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(table[["dataset", "preset"]].itertuples(index=False, name=None))


def main() -> None:
    """Run the collection, publish its table, and print what it comes to."""
    parser = argparse.ArgumentParser(prog="python -m tests.masks_table")
    parser.add_argument("dataset", nargs="?", default="digits", choices=list(SETUPS))
    parser.add_argument("--n", type=int, help="how many images")
    parser.add_argument("--preset", default="fast", help="effort of the white-box attacks, as in a grid")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="try these alone, and publish nothing")
    given = parser.parse_args()
    setup = SETUPS[given.dataset]
    setup = replace(setup, n=given.n or setup.n, white_box={"preset": given.preset})
    if setup.dataset == "mnist" and data_root() is None:
        raise SystemExit("the masks of MNIST need its files: name their folder with BENCH_DATA")
    wanted = given.only or [construction.name for construction in COLLECTION]
    collection = [c for c in COLLECTION if c.name in wanted]
    out = REPOSITORY / "results" / "runs" / f"masks-{setup.dataset}"
    rows = tried(setup, out, collection, data=data_root())
    print(worst(rows).drop(columns=["eps", "n"]).to_string(index=False, na_rep="", max_colwidth=60))
    counts = Counter(worst(rows)["verdict"])
    print(", ".join(f"{counts[name]} {name}" for name in VERDICTS))
    if not given.only:
        rows.insert(0, "dataset", setup.dataset)
        rows.insert(1, "preset", given.preset)
        table = renewed(pd.read_csv(TABLE) if TABLE.is_file() else None, rows)
        table.to_csv(TABLE, index=False, float_format="%.4g")
        print(f"written: {TABLE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
