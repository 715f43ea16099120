"""Measures whether a purifier in front of an image classifier protects it from adversarial attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.version import __version__

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from benchmark.outside import Export, Pipeline
    from benchmark.purifier import PurifierModule
    from benchmark.zoo_models import Classifier, LoadedPurifier

__all__ = ["__version__", "export", "load", "load_defense", "load_pipeline", "load_target", "run"]


def run(
    grid: str | Path | Mapping[str, Any], *, out: str | Path | None = None, **options: Any
) -> pandas.DataFrame:
    """Run a grid and return its records, one row per cell (columns as in `records.csv`).

    Args:
        grid: A file, the name of a built-in grid, or a mapping with the same keys.
        out: The folder for the files of the run; by default `results/runs/<grid name>`.
        **options: `data`, `store`, `device`, `plugins`, `only`, `sanity`, `trust`, `reuse`, `threads`, `zoo`
            as in `bench run`. Of what the grid names only the code in `plugins` and `trust` runs.

    Raises:
        benchmark.errors.UserError: Anything in the grid or the options is wrong.
    """
    from benchmark.display import Silent
    from benchmark.runs import prepare, read_records, run_prepared

    observer = Silent()
    prepared = prepare(grid, observer, **options)
    finished = run_prepared(prepared, observer, Path(out or f"results/runs/{prepared.grid.name}"))
    return read_records(finished.out)


def export(
    run: str | Path,
    cell: str,
    *,
    data: str | Path | None = None,
    store: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    trust: Sequence[str | Path] = (),
) -> Export:
    """The pipeline of a cell as a module, with its clean images and labels, for attacks from outside.

    Args:
        run: The folder of a run.
        cell: The key of the cell, or how it begins.
        data: As in `bench run`.
        store: As in `bench run`.
        plugins: As in `bench run`.
        trust: As in `bench run`.

    Raises:
        benchmark.errors.UserError: There is no such run or cell.
    """
    from benchmark.display import Silent
    from benchmark.outside import export as export_from
    from benchmark.outside import find_cell
    from benchmark.rerun import run_again

    files = [Path(plugin) for plugin in plugins]
    prepared = run_again(Path(run), Silent(), data=data, store=store, plugins=files, trust=trust)
    return export_from(prepared.workshop, find_cell(prepared.plan, cell))


def load(run: str | Path) -> pandas.DataFrame:
    """The records of a run that was made before, as `run` returned them.

    Args:
        run: The folder of the run.

    Raises:
        benchmark.errors.UserError: The folder holds no run.
    """
    from benchmark.runs import read_records

    return read_records(Path(run))


def load_target(
    name: str,
    dataset: str,
    *,
    seed: int = 0,
    role: str = "target",
    key: str | None = None,
    zoo: str | None = None,
    plugins: Sequence[str | Path] = (),
    **parameters: Any,
) -> Classifier:
    """A classifier with the weights of the zoo: a module in evaluation mode, its weights frozen.

    It takes images (B, C, H, W), float in [0, 1], and gives logits (B, classes); whatever normalisation it
    needs is inside. It was trained on the training images of `dataset` only: without the validation images,
    on which its error is stated, and without the test images. `print` says what it is and how good it is.

        >>> classifier = benchmark.load_target("mnist-c", "digits")
        >>> classifier(images).argmax(dim=1)

    No images of the data set are needed, and no network, unless `BENCH_ZOO` is a URL.

    Args:
        name: As in `bench list targets`.
        dataset: The data set that it was trained on, as in `bench list datasets`.
        seed: The seed of its training.
        role: `target`, or `source` for a classifier that defenses are trained with.
        key: The key of the training, or how it begins, if several fit; it goes before `seed` and `role`.
        zoo: Where to look: `package`, `checkout`, `BENCH_ZOO`, a folder or a URL. Default: all layers.
        plugins: Files that declare plugins, as in `bench run --plugin`.
        **parameters: Parameters that its training had, to choose among several, e.g. `epochs=5`.

    Raises:
        benchmark.errors.UserError: There is no such target, no weights for that data set, or several.
    """
    from benchmark.zoo_models import load_target as load_it

    return load_it(name, dataset, seed=seed, role=role, key=key, zoo=zoo, plugins=plugins, **parameters)


def load_defense(
    name: str,
    dataset: str,
    *,
    seed: int = 0,
    key: str | None = None,
    zoo: str | None = None,
    data: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    **parameters: Any,
) -> LoadedPurifier:
    """A purifier, with the weights of the zoo if it is trained: a module in evaluation mode, weights frozen.

    It takes images (B, C, H, W), float in [0, 1], and gives images of the same shape and range. Gradients
    flow through it as far as the defense lets them; a random defense draws new noise at each call. A trained
    defense has seen the training images of `dataset` only, and the classifier that `print` names: without the
    validation images, on which the clean error that it adds is stated, and without the test images. A defense
    that is not trained needs no weights, and is made for the images of `dataset`.

        >>> purify = benchmark.load_defense("ape-gan", "digits", seed=0)
        >>> classifier(purify(images)).argmax(dim=1)
        >>> benchmark.load_defense("jpeg", "digits", quality=50)

    No images of the data set are needed, and no network, unless `BENCH_ZOO` is a URL.

    Args:
        name: As in `bench list defenses`.
        dataset: The data set that it was trained on, as in `bench list datasets`.
        seed: The seed of its training.
        key: The key of the training, or how it begins, if several fit; it goes before `seed`.
        zoo: Where to look: `package`, `checkout`, `BENCH_ZOO`, a folder or a URL. Default: all layers.
        data: Root folder of the data sets, for an untrained defense and a data set of no fixed size.
        plugins: Files that declare plugins, as in `bench run --plugin`.
        **parameters: Those that act after training are set. Those that weights depend on, such as `preset`,
            choose among several trainings; of an untrained defense all are set.

    Raises:
        benchmark.errors.UserError: There is no such defense, no weights for that data set, or several.
    """
    from benchmark.zoo_models import load_defense as load_it

    return load_it(name, dataset, seed=seed, key=key, zoo=zoo, data=data, plugins=plugins, **parameters)


def load_pipeline(
    defense: str | PurifierModule,
    target: str | nn.Module,
    dataset: str,
    *,
    seed: int = 0,
    target_seed: int = 0,
    zoo: str | None = None,
    plugins: Sequence[str | Path] = (),
) -> Pipeline:
    """A classifier behind a purifier: a module from images (B, C, H, W), float in [0, 1], to logits.

        >>> pipeline = benchmark.load_pipeline("ape-gan", "mnist-c", "digits")
        >>> pipeline(images).argmax(dim=1)

    Args:
        defense: The name of a defense, or what `load_defense` gave.
        target: The name of a target, or any module from images to logits.
        dataset: The data set that both were trained on.
        seed: The seed of the defense's training.
        target_seed: The seed of the target's training.
        zoo: Where to look: `package`, `checkout`, `BENCH_ZOO`, a folder or a URL. Default: all layers.
        plugins: Files that declare plugins, as in `bench run --plugin`.

    Raises:
        benchmark.errors.UserError: As `load_defense` and `load_target`.
    """
    from benchmark.zoo_models import load_pipeline as load_it

    return load_it(defense, target, dataset, seed=seed, target_seed=target_seed, zoo=zoo, plugins=plugins)
