"""Data sets: disjoint splits, a balanced fixed order, real files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.api.dataset import class_balanced_order, proportional_order
from benchmark.cli.doctor import examine
from benchmark.datasets.digits import Digits
from benchmark.datasets.folder import Folder, FolderConfig
from benchmark.datasets.mnist import FashionMnist, Mnist
from benchmark.errors import MissingImagesError, UserError
from benchmark.execution.lru_cache import LRUCache
from benchmark.plugins.plugin import Config
from benchmark.plugins.registry import default_registry
from benchmark.results.outcomes_file import read_class_names
from tests.datasets.pictures import write_classes, write_halves


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


@pytest.mark.parametrize("plugin", [Mnist, FashionMnist])
def test_preparing_mnist_downloads_nothing(plugin: type[Mnist], tmp_path: Path, no_requests: None) -> None:
    data = plugin(Config(), tmp_path)
    with pytest.raises(MissingImagesError, match="no images under"):
        data.prepare()
    with pytest.raises(AssertionError, match="was asked for"):
        data.download()


@pytest.mark.data
def test_a_grid_runs_on_real_mnist(real_data: Path, small_run) -> None:
    records = small_run(datasets=[{"name": "mnist", "n": 100}], data=real_data)
    assert (records["status"] == "ok").all()
    assert 0.05 < records["clean_error"].iloc[0] < 0.4  # a nearest-mean classifier errs on 18 % of MNIST


def test_labels_out_of_range_are_refused_before_any_training() -> None:
    class Wrong(Digits):
        class_names = tuple("012345678")

    with pytest.raises(
        UserError, match=r"label 9 of training image \d+ is out of range: there are 9 classes"
    ):
        Wrong(Config(), Path()).splits()


def test_a_proportional_order_keeps_rare_classes_in_both_parts() -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    order = proportional_order(labels)
    assert sorted(order.tolist()) == list(range(1000))
    assert labels[order][:100].bincount().tolist() == [90, 9, 1]
    assert torch.equal(order, proportional_order(labels))


GRID = {"targets": ["nearest-mean"], "threats": ["black-box"], "source": "default"}


def test_a_damaged_image_fails_only_the_cells_of_its_data_set(small_run, tmp_path: Path) -> None:
    good, bad = write_halves(tmp_path / "good"), write_halves(tmp_path / "bad")
    broken = bad / "test" / "bee" / "102.png"
    broken.write_bytes(broken.read_bytes()[:-50])
    datasets = [{"name": "folder", "path": name, "source": "nearest-mean"} for name in ("bad", "good")]
    records = small_run(**GRID, datasets=datasets, data=tmp_path, store=str(tmp_path / "store"))
    status = records.set_index("dataset")["status"].to_dict()
    assert {title.partition(" ")[0] for title in status} == {"folder"}
    failed, fine = (f'folder {{"path":"{name}","source":"nearest-mean"}}' for name in ("bad", "good"))
    assert status == {failed: "failed", fine: "ok"}
    reason = records.set_index("dataset")["reason"][failed]
    assert reason.startswith(f"{broken}: cannot be read as an image")
    assert "Traceback" not in reason
    assert str(good) not in reason


def test_class_names_are_stored_with_the_outcomes(small_run, tmp_path: Path) -> None:
    write_halves(tmp_path / "insects")
    own = {"name": "folder", "path": "insects", "source": "nearest-mean"}
    out = tmp_path / "out"
    records = small_run(**GRID, datasets=[own, {"name": "digits", "n": 10}], data=tmp_path, out=out)
    assert (records["status"] == "ok").all()
    assert read_class_names(out / "outcomes.parquet") == {
        records["dataset"][0]: ["ant", "bee", "cat"],
        "digits": list("0123456789"),
    }


def test_moved_images_have_the_same_keys(small_run, tmp_path: Path) -> None:
    write_halves(tmp_path / "here")
    store = tmp_path / "store"

    def results(path: Path) -> set[str]:
        own = {"name": "folder", "path": str(path), "source": "nearest-mean"}
        assert (small_run(**GRID, datasets=[own], store=str(store))["status"] == "ok").all()
        return {str(entry.relative_to(store)) for entry in store.rglob("*.json")}

    before = results(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert results(tmp_path / "there") == before
    assert results(write_halves(tmp_path / "others", height=9)) != before


def test_two_folders_have_their_own_source_classifiers(small_run, tmp_path: Path) -> None:
    write_halves(tmp_path / "a"), write_halves(tmp_path / "b", height=9)
    datasets = [
        {"name": "folder", "path": "a", "source": "nearest-mean"},
        {"name": "folder", "path": "b", "source": "odd"},
    ]
    small_run(**GRID, datasets=datasets, defenses=["shift"], data=tmp_path, store=str(tmp_path / "store"))
    trained = {path.parent.name for path in (tmp_path / "store" / "train-target").rglob("*.json")}
    assert trained == {"nearest-mean", "odd"}


@pytest.mark.parametrize(
    ("source", "defense", "words"),
    [
        ({}, "shift", "has no default source classifier to train shift with"),
        ({"source": "nearest-meen"}, "identity", "unknown target 'nearest-meen'"),
        ({"source": "module"}, "identity", "target module has no default for factory"),
    ],
)
def test_a_missing_source_classifier_is_named_if_it_is_needed(
    small_run, tmp_path: Path, source: dict[str, str], defense: str, words: str
) -> None:
    write_halves(tmp_path / "own")
    with pytest.raises(UserError) as caught:
        small_run(
            **GRID, datasets=[{"name": "folder", "path": "own"} | source], defenses=[defense], data=tmp_path
        )
    assert words in str(caught.value)
    assert '"path":"own"' in str(caught.value)


def test_without_a_source_classifier_cells_that_do_not_need_it_run(small_run, tmp_path: Path) -> None:
    write_halves(tmp_path / "own")
    own = {"name": "folder", "path": "own"}
    assert (small_run(**GRID, datasets=[own], data=tmp_path)["status"] == "ok").all()
    taught = {"name": "shift", "source": "target"}
    assert (small_run(**GRID, datasets=[own], defenses=[taught], data=tmp_path)["status"] == "ok").all()


def test_without_training_images_a_training_fails_with_the_reason(small_run, tmp_path: Path) -> None:
    write_classes(tmp_path / "own")
    own = {"name": "folder", "path": "own", "test": 1}
    records = small_run(**GRID, datasets=[own], data=tmp_path)
    assert records["status"].tolist() == ["failed"]
    assert "has no images to train with" in records["reason"][0]


@pytest.mark.parametrize("share", [0.9, 1])
def test_a_pretrained_classifier_needs_no_training_images(small_run, tmp_path: Path, share: float) -> None:
    write_classes(tmp_path / "own", names=("ant", "bee"))  # a share of .9 leaves one of twelve images
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))\n"
    )
    given = {"name": "module", "factory": f"{tmp_path / 'net.py'}:make"}
    own = {"name": "folder", "path": "own", "test": share}
    trust = [tmp_path / "net.py"]
    records = small_run(**GRID | {"targets": [given]}, datasets=[own], data=tmp_path, trust=trust)
    assert records["status"].tolist() == ["ok"]


IDX_MISTAKES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "cut images": ("t10k-images-idx3-ubyte", lambda old: old[:-784], "is damaged, or no IDX file"),
    "cut labels": ("t10k-labels-idx1-ubyte", lambda old: old[:-1], "is damaged, or no IDX file"),
    "a page in their place": ("train-images-idx3-ubyte", lambda _: b"<html>", "is damaged, or no IDX file"),
    "an empty file": ("train-labels-idx1-ubyte", lambda _: b"", "is damaged, or no IDX file"),
    "fewer labels": (
        "t10k-labels-idx1-ubyte",
        lambda _: _idx(np.zeros(3, np.uint8)),
        "holds 3 labels for the 4 images of t10k-images-idx3-ubyte",
    ),
    "other labels": ("train-labels-idx1-ubyte", lambda _: _idx(np.full(6, 10, np.uint8)), "not 0 to 9"),
    "other images": (
        "train-images-idx3-ubyte",
        lambda _: _idx(np.zeros((6, 8, 8), np.uint8)),
        "holds images of (8, 8)",
    ),
}


def _idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files: type and dimensions, sizes, bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def _write_idx(root: Path) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(_idx(images))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(_idx(np.arange(count, dtype=np.uint8)))
    return raw


@pytest.mark.parametrize("mistake", IDX_MISTAKES)
def test_messages_about_wrong_mnist_files_name_the_file(tmp_path: Path, mistake: str) -> None:
    name, spoil, words = IDX_MISTAKES[mistake]
    raw = _write_idx(tmp_path)
    mnist = Mnist(Config(), tmp_path)
    assert mnist.load_test().labels.tolist() == [0, 1, 2, 3]
    (raw / name).write_bytes(spoil((raw / name).read_bytes()))
    with pytest.raises(UserError) as caught:
        mnist.load_train() if "train" in name else mnist.load_test()
    assert str(caught.value).startswith(f"{raw / name}: ")
    assert words in str(caught.value)


def test_files_of_an_old_torchvision_are_not_read(tmp_path: Path) -> None:
    raw = _write_idx(tmp_path)
    (raw.parent / "processed").mkdir()
    for name in ("training", "test"):
        made = (torch.zeros(5, 28, 28, dtype=torch.uint8), torch.ones(5, dtype=torch.int64))
        torch.save(made, raw.parent / "processed" / f"{name}.pt")
    assert Mnist(Config(), tmp_path).load_test().labels.tolist() == [0, 1, 2, 3]


def test_the_doctor_accepts_data_sets_whose_files_are_missing(tmp_path: Path) -> None:
    found = list(examine(default_registry(), tmp_path / "none", str(tmp_path / "store")))
    names = next(finding.detail for finding in found if finding.subject == "datasets").split(", ")
    assert {"folder", "npz", "cifar10", "cifar100", "imagenet"} <= set(names)
    assert [finding for finding in found if not finding.ok and "dataset" in finding.subject] == []


def test_the_cache_drops_the_least_recently_used_results() -> None:
    loaded: list[str] = []
    kept: LRUCache[str] = LRUCache(10, len)

    def get(key: str, size: int) -> None:
        kept.get(key, lambda: (loaded.append(key), "x" * size)[1])

    for key in ("a", "b", "a", "c", "a", "b"):  # c displaces b, which was used less recently than a
        get(key, 4)
    assert loaded == ["a", "b", "c", "b"]
    get("whale", 99)
    get("whale", 99)
    get("a", 4)
    assert loaded[4:] == ["whale", "a"]


@pytest.mark.data
def test_the_jpeg_copy_of_cifar_is_read_in_place(real_data: Path) -> None:
    if not (real_data / "cifar10-jpeg.zip").is_file():
        pytest.skip("needs cifar10-jpeg.zip beside the MNIST files")
    data = Folder(FolderConfig(path="cifar10-jpeg.zip"), real_data)
    data.prepare()
    assert data.image_shape == (3, 32, 32)
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    splits = data.splits()
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [45_000, 5_000, 10_000]
    assert splits.validation.labels.bincount().tolist() == [500] * 10
    mean = splits.test.take(torch.arange(500)).mean(dim=(0, 2, 3))
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.02)
