"""Data sets in arrays: npz files of users, and CIFAR in Python batches."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from benchmark.datasets.cifar import Cifar10, Cifar100, CifarConfig
from benchmark.datasets.npz import Npz, NpzConfig
from benchmark.errors import MissingImagesError, UserError

RANDOM = np.random.RandomState(0)
ARRAYS = {
    "train_images": RANDOM.randint(0, 256, (20, 5, 4, 3), dtype=np.uint8),
    "train_labels": np.arange(20) % 4,
    "test_images": RANDOM.randint(0, 256, (8, 5, 4, 3), dtype=np.uint8),
    "test_labels": np.arange(8) % 4,
}


def opened(path: Path, arrays: dict[str, Any]) -> Npz:
    np.savez_compressed(path, **arrays)
    data = Npz(NpzConfig(path=path.name), path.parent)
    data.prepare()
    return data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.npz"


def test_images_may_have_any_usual_layout(path: Path) -> None:
    expected = torch.from_numpy(ARRAYS["test_images"]).permute(0, 3, 1, 2) / 255
    first = {**ARRAYS, "train_images": ARRAYS["train_images"].transpose(0, 3, 1, 2)}
    floats = {**ARRAYS, "test_images": (ARRAYS["test_images"] / 255).astype(np.float64)}
    keras = dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS.values(), strict=True))
    columns = {**ARRAYS, "train_labels": ARRAYS["train_labels"][:, None]}
    for arrays in (ARRAYS, first, floats, keras, columns):
        data = opened(path, arrays)
        assert data.image_shape == (3, 5, 4)
        assert data.class_names == ("0", "1", "2", "3")
        test = data.load_test().take(torch.arange(8))
        assert test.dtype == torch.float32
        assert torch.allclose(test, expected, atol=1e-7, rtol=0)
        assert data.load_train().labels.tolist() == [0, 1, 2, 3] * 5
    grey = {**ARRAYS, "train_images": ARRAYS["train_images"][..., 0], "test_images": expected.numpy()[:, 0]}
    assert opened(path, grey).image_shape == (1, 5, 4)
    names = opened(path, {**ARRAYS, "class_names": np.array(["ant", "bee", "cat", "dog", "eel"])}).class_names
    assert names == ("ant", "bee", "cat", "dog", "eel")


def test_the_fingerprint_changes_with_any_pixel_or_label(path: Path) -> None:
    found = {opened(path, ARRAYS).fingerprint(), opened(path, ARRAYS).fingerprint()}
    assert len(found) == 1
    for name in ARRAYS:
        changed = ARRAYS[name].copy()
        changed.flat[3] = (changed.flat[3] + 1) % 4
        found.add(opened(path, {**ARRAYS, name: changed}).fingerprint())
    assert len(found) == 5


def _with(name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    return {**ARRAYS, name: change(ARRAYS[name].copy())}


def _set(value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[2] = value
        return array

    return change


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a label too large": (
        _with("test_labels", _set(4)),
        "test_labels[2] is 4, out of range: there are 4 classes",
    ),
    "a label below 0": (_with("train_labels", _set(-1)), "train_labels[2] is -1, out of range"),
    "labels that are no numbers": (_with("train_labels", lambda x: x / 2), "labels are whole numbers"),
    "unequal lengths": (
        _with("train_labels", lambda x: x[:-1]),
        "train_images has 20 images, train_labels 19 labels",
    ),
    "an array missing": (
        {"train_images": ARRAYS["train_images"]},
        "lacks arrays: train_images, train_labels",
    ),
    "no images": (
        {**ARRAYS, "test_images": np.zeros((0, 5, 4, 3), np.uint8), "test_labels": np.zeros(0, int)},
        "test_images is empty",
    ),
    "other test images": (_with("test_images", lambda x: x[:, :4]), "are (3, 5, 4), test images (3, 4, 4)"),
    "values beyond 1": (
        _with("test_images", lambda x: x.astype(np.float32)),
        "test_images[0] has values that are not in [0, 1]",
    ),
    "values that are none": (
        _with("test_images", lambda x: _set(np.nan)(x / 255)),
        "test_images[2] has values that are not in [0, 1]",
    ),
    "pixels that were scaled twice": (
        _with("train_images", lambda x: x / 255 / 255),
        "train_images is of float64, 0 to 1, but no value is above 0.00392",
    ),
    "whole numbers that were scaled": (
        _with("test_images", lambda x: (x / 255).astype(np.uint8)),
        "test_images is of uint8, 0 to 255, but no value is above 1",
    ),
    "whole numbers that are not 8-bit": (
        _with("test_images", lambda x: x.astype(np.int64)),
        "test_images is of int64",
    ),
    "flat images": (_with("test_images", lambda x: x.reshape(8, 60)), "test_images is of shape (8, 60)"),
    "objects": (_with("train_labels", lambda x: x.astype(object)), "cannot be read as an .npz file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_messages_about_wrong_arrays_name_the_file(path: Path, mistake: str) -> None:
    arrays, words = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        opened(path, arrays)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04half"])
def test_a_file_that_is_not_an_npz_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"own\.npz: cannot be read as an \.npz file"):
        Npz(NpzConfig(path=str(path)), Path()).prepare()


def test_a_single_array_and_a_zip_of_other_files_are_refused(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, ARRAYS["train_images"])
    with pytest.raises(UserError, match=r"own\.npz: is a single array"):
        Npz(NpzConfig(path=str(path)), Path()).prepare()
    with zipfile.ZipFile(path, "w") as packed:
        for name in ARRAYS:
            packed.writestr(name, "hello")
    with pytest.raises(UserError, match=r"own\.npz: holds \w+, which is no array"):
        Npz(NpzConfig(path=str(path)), Path()).prepare()


FINE = [f"fine {label}" for label in range(100)]
COARSE = {"filenames": [], "batch_label": "", "coarse_labels": [0, 0, 0]}


def _write(kind: Any, root: Path, monkeypatch: pytest.MonkeyPatch, *, first: int = 0) -> None:
    """Write the files of a torchvision class with three images each, and set their MD5 in the class."""
    key = "labels" if kind is CIFAR10 else "fine_labels"
    folder = root / kind.base_folder
    folder.mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for which, files in lists.items():
        for number, (name, _) in enumerate(getattr(kind, which)):
            images = np.arange(3 * 3072).reshape(3, 3072) + 7 * number + first
            batch = {
                "data": images.astype(np.uint8),
                key: [number, 1, 2],
                **(COARSE if kind is CIFAR100 else {}),
            }
            files.append([name, _pickled(folder / name, batch)])
        monkeypatch.setattr(kind, which, files)
    names = [f"name {label}" for label in range(10)] if kind is CIFAR10 else FINE
    md5 = _pickled(folder / kind.meta["filename"], {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5})


def _pickled(path: Path, value: Any) -> str:
    path.write_bytes(pickle.dumps(value, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("plugin", "kind"), [(Cifar10, CIFAR10), (Cifar100, CIFAR100)])
def test_cifar_is_read_from_the_batches_as_published(
    plugin: Any, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(kind, tmp_path, monkeypatch)
    data = plugin(CifarConfig(), tmp_path)
    data.prepare()
    assert data.image_shape == (3, 32, 32)
    assert data.class_names[7] == {Cifar10: "name 7", Cifar100: "fine 7"}[plugin]
    assert len(data.class_names) == {Cifar10: 10, Cifar100: 100}[plugin]
    train, test = data.load_train(), data.load_test()
    assert train.labels.tolist() == (
        [0, 1, 2] if plugin is Cifar100 else [n for i in range(5) for n in (i, 1, 2)]
    )
    planes = (torch.arange(3 * 3072).reshape(3, 3, 32, 32) % 256).float() / 255
    assert torch.equal(test.take(torch.arange(3)), planes)
    before = data.fingerprint()
    _write(kind, tmp_path, monkeypatch, first=1)
    assert data.fingerprint() != before


def test_a_damaged_cifar_file_is_named_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(CIFAR10, tmp_path, monkeypatch)
    damaged = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    damaged.write_bytes(b"cos\nsystem\n(S'touch unpickled'\ntR.")
    with pytest.raises(UserError) as caught:
        Cifar10(CifarConfig(), tmp_path).prepare()
    assert str(caught.value).startswith(f"{damaged}: is not the cifar10 file of that name")


def test_a_damaged_cifar_file_is_not_replaced_if_another_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(CIFAR10, tmp_path, monkeypatch)
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "data_batch_3").write_bytes(b"mine")
    (folder / "data_batch_4").unlink()
    _pack(folder, monkeypatch)
    with pytest.raises(UserError, match="data_batch_3: is not the cifar10 file of that name"):
        Cifar10(CifarConfig(), tmp_path).download()
    assert (folder / "data_batch_3").read_bytes() == b"mine"


def test_preparing_cifar_downloads_nothing_and_unpacks_an_existing_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_requests: None
) -> None:
    data = Cifar10(CifarConfig(), tmp_path)
    with pytest.raises(MissingImagesError, match="no images under"):
        data.prepare()
    _write(CIFAR10, tmp_path, monkeypatch)
    _pack(tmp_path / "cifar-10-batches-py", monkeypatch)
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    data.prepare()
    assert len(data.load_test()) == 3


def _pack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = folder.parent / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())


def test_cifar_that_cannot_be_downloaded_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(self: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    with pytest.raises(MissingImagesError) as caught:
        Cifar10(CifarConfig(), tmp_path).download()
    assert f"put cifar-10-python.tar.gz into {tmp_path}" in str(caught.value)
