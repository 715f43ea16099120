"""Data sets: splits that do not overlap, a balanced fixed order, real files read as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.datasets.contract import class_balanced_order
from benchmark.datasets.digits import Digits
from benchmark.datasets.idx import FashionMnist, Mnist
from benchmark.plugin import Config


def test_digits_splits_are_disjoint_complete_and_pinned() -> None:
    splits = Digits(Config(), Path()).splits()
    sizes = [len(split) for split in (splits.train, splits.validation, splits.test)]
    assert sizes == [1097, 200, 500]
    rows = [
        split.take(torch.arange(len(split))).flatten(1)
        for split in (splits.train, splits.validation, splits.test)
    ]
    assert len({tuple(row.tolist()) for row in torch.cat(rows)}) > 1790  # a few scans are identical
    assert splits.test.labels[:20].tolist() == sorted(range(10)) * 2
    assert Digits(Config(), Path()).fingerprint() == Digits(Config(), Path("elsewhere")).fingerprint()


def test_digits_are_images_in_the_unit_range() -> None:
    images = Digits(Config(), Path()).splits().test.take(torch.arange(50))
    assert images.shape == (50, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert 0.9 < images.max() <= 1


def test_every_prefix_of_the_order_is_class_balanced() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 5)
    order = class_balanced_order(labels)
    assert sorted(order.tolist()) == list(range(85))
    counts = labels[order][:15].bincount()
    assert counts.tolist() == [5, 5, 5]
    assert torch.equal(order, class_balanced_order(labels))


@pytest.mark.data
@pytest.mark.parametrize("plugin", [Mnist, FashionMnist])
def test_real_files_load_in_full(real_data: Path, plugin: type[Mnist] | type[FashionMnist]) -> None:
    dataset = plugin(Config(), real_data)
    dataset.prepare()
    splits = dataset.splits()
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [55_000, 5_000, 10_000]
    assert splits.test.labels[:1000].bincount().tolist() == [100] * 10
    assert splits.test.take(torch.arange(3)).shape == (3, 1, 28, 28)
    assert (
        dataset.load_test().labels[:4].tolist() == {Mnist: [7, 2, 1, 0], FashionMnist: [9, 2, 1, 1]}[plugin]
    )
    assert len(dataset.class_names) == 10


@pytest.mark.data
def test_a_grid_runs_on_real_mnist(real_data: Path, small_run) -> None:
    records = small_run(datasets=[{"name": "mnist", "n": 100}], data=real_data)
    assert (records["status"] == "ok").all()
    assert 0.05 < records["clean_error"].iloc[0] < 0.4  # a nearest-mean classifier errs on 18 % of MNIST
