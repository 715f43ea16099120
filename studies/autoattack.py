"""`python -m studies.autoattack RUN`: compares the errors of a run with those of ART's AutoAttack.

For each white-box PGD cell in an L-infinity ball the pipeline is exported and attacked by the AutoAttack of
ART, independently of this harness: APGD on two losses, DeepFool and Square, after Croce and Hein (2020).
Their standard version also has targeted attacks. If its error is more than two points above that of the cell,
our white-box attack is too weak. Random pipelines are left out, because two points may be due to their draws.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from art.attacks.evasion import AutoAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

import benchmark
from benchmark.results.external_images import Export

_TOLERANCE = 0.02
_ROUNDING = 1e-6
_SHOWN = ("dataset", "target", "defense", "defense_seed", "norm", "eps", "n", "clean_error", "error")


def autoattack(exported: Export, batch: int) -> Tensor:
    """ART's adversarial images for all images of the cell, clipped to the ball and to [0, 1]."""
    assert exported.eps is not None, "the attack of the cell has no ball"
    clean = exported.images.cpu().numpy()
    estimator = PyTorchClassifier(
        exported.pipeline,
        torch.nn.CrossEntropyLoss(),
        clean.shape[1:],
        exported.pipeline(exported.images[:1]).shape[1],
        clip_values=(0.0, 1.0),
        device_type="gpu" if exported.images.is_cuda else "cpu",
    )
    attack = AutoAttack(estimator, norm=np.inf, eps=exported.eps, eps_step=exported.eps / 4, batch_size=batch)
    for part in attack.attacks:
        part.set_params(verbose=False)
    found = attack.generate(clean, exported.labels.cpu().numpy())
    ball = np.clip(found, clean - exported.eps, clean + exported.eps)
    return torch.from_numpy(np.clip(ball, 0, 1).astype(np.float32)).to(exported.images.device)


def error_of(exported: Export, images: Tensor) -> float:
    """The share of images that the pipeline misclassifies."""
    with torch.no_grad():
        wrong = exported.pipeline(images).argmax(dim=1) != exported.labels
    return float(wrong.float().mean())


def main(argv: list[str] | None = None) -> int:
    """Print the table of all such cells; returns 1 if AutoAttack finds more than the tolerance allows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--defense", action="append", help="only this defense; may be repeated")
    parser.add_argument("--data", help="as in `bench run`")
    parser.add_argument("--store", help="as in `bench run`")
    parser.add_argument("--plugin", type=Path, action="append", default=[], help="as in `bench run`")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--out", type=Path, help="also write the table as CSV")
    options = parser.parse_args(argv)
    records = benchmark.load(options.run)
    wanted = records["status"] == "ok"
    wanted &= (records["threat"] == "white-box") & (records["attack"] == "pgd") & (records["norm"] == "linf")
    wanted &= ~records["eligible"].str.contains("random", na=False)
    if options.defense:
        wanted &= records["defense"].isin(options.defense)
    if not wanted.any():
        parser.error(f"{options.run} has no such cell")
    rows = []
    for _, cell in records[wanted].iterrows():
        exported = benchmark.export(
            options.run, cell["key"], data=options.data, store=options.store, plugins=options.plugin
        )
        torch.manual_seed(0)
        np.random.seed(0)
        found = error_of(exported, autoattack(exported, options.batch))
        shown = {name: cell[name] for name in _SHOWN}
        rows.append(shown | {"autoattack": found, "more": found - cell["error"]})
        print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    table = pd.DataFrame(rows)
    if options.out:
        table.to_csv(options.out, index=False, lineterminator="\n")
    print(table.to_markdown(index=False, floatfmt=".3f"))
    return 0 if (table["more"] <= _TOLERANCE + _ROUNDING).all() else 1


if __name__ == "__main__":
    sys.exit(main())
