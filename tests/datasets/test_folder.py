"""Image folders and zips: same images as torchvision's, same splits everywhere, wrong files refused."""

from __future__ import annotations

import os
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmark.datasets.folder import Folder, FolderConfig
from benchmark.datasets.reading import file_digests as content
from benchmark.errors import UserError
from tests.datasets.pictures import picture, write_classes, write_halves, zipped


def opened(path: Path | str, root: Path = Path(), **config: Any) -> Folder:
    folder = Folder(FolderConfig(path=str(path), **config), root)
    folder.prepare()
    return folder


def everything(split: Any) -> torch.Tensor:
    return split.take(torch.arange(len(split)))


def refusal(path: Path, **config: Any) -> str:
    """The message of the error when the data set is opened or all images are read."""

    def read() -> None:
        folder = opened(path, **config)
        everything(folder.load_train())
        everything(folder.load_test())

    with pytest.raises(UserError) as caught:
        read()
    return str(caught.value)


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    return write_halves(tmp_path / "halves")


def test_a_folder_with_train_and_test_is_read_as_torchvision_reads_it(halves: Path) -> None:
    folder = opened(halves)
    assert folder.image_shape == (3, 8, 8)
    assert folder.class_names == ("ant", "bee", "cat")
    for split, name in ((folder.load_train(), "train"), (folder.load_test(), "test")):
        reference = ImageFolder(str(halves / name), transform=transforms.ToTensor())
        assert split.labels.tolist() == reference.targets
        assert torch.equal(everything(split), torch.stack([image for image, _ in reference]))


@pytest.mark.parametrize("inside", ["", "photos/"])
def test_a_zip_has_the_images_of_the_folder_and_is_not_unpacked(
    halves: Path, tmp_path: Path, inside: str
) -> None:
    (tmp_path / "root").mkdir()
    packed = zipped(halves, tmp_path / "root" / "photos.zip", inside)
    from_zip, from_folder = opened("photos.zip", tmp_path / "root"), opened(halves)
    assert from_zip.class_names == from_folder.class_names
    for one, other in zip(vars(from_zip.splits()).values(), vars(from_folder.splits()).values(), strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(everything(one), everything(other))
    assert list(packed.parent.iterdir()) == [packed]


def test_one_folder_is_split_by_class_and_always_in_the_same_way(tmp_path: Path) -> None:
    write_classes(tmp_path / "all", ("ant", "bee"), count=40)
    write_classes(tmp_path / "all", ("cow",), count=10, start=50)
    folder = opened(tmp_path / "all", test=0.2, validation=0.25)
    splits = folder.splits()
    counts = [split.labels.bincount().tolist() for split in (splits.train, splits.validation, splits.test)]
    assert counts == [[24, 24, 6], [8, 8, 2], [8, 8, 2]]
    rows = torch.cat([everything(split) for split in (splits.train, splits.validation, splits.test)])
    assert len({tuple(row.tolist()) for row in rows.flatten(1)}) == 90
    again = opened(tmp_path / "all", test=0.2, validation=0.25).splits()
    assert torch.equal(everything(again.test), everything(splits.test))


def test_if_all_images_are_for_testing_there_are_no_training_images(tmp_path: Path) -> None:
    splits = opened(write_classes(tmp_path / "all"), test=1).splits()
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [0, 0, 18]
    with pytest.raises(UserError, match="has no images to train with"):
        splits.train.take(torch.arange(0))


@pytest.mark.parametrize(("size", "resize"), [(8, None), (8, 12), (20, None)])
def test_the_centre_crop_is_that_of_torchvision(tmp_path: Path, size: int, resize: int | None) -> None:
    write_classes(tmp_path / "all", ("ant", "bee"), count=1, height=30, width=17)
    write_classes(tmp_path / "all", ("ant", "bee"), count=1, start=5, height=14, width=50)
    folder = opened(tmp_path / "all", test=1, size=size, resize=resize)
    steps = [transforms.Resize(resize or size), transforms.CenterCrop(size), transforms.ToTensor()]
    reference = ImageFolder(str(tmp_path / "all"), transform=transforms.Compose(steps))
    assert folder.image_shape == (3, size, size)
    assert torch.equal(everything(folder.load_test()), torch.stack([image for image, _ in reference]))


def test_grey_and_colour_are_converted_only_on_request(halves: Path) -> None:
    picture(1, 3, channels=1).save(halves / "train" / "bee" / "003.png")
    message = refusal(halves)
    assert str(halves / "train" / "bee" / "003.png") in message
    assert "is grey, and the data set's first image is RGB" in message
    assert "`channels: 3`" in message
    rgb = everything(opened(halves, channels=3).load_train())[9]
    assert torch.equal(rgb, transforms.ToTensor()(picture(1, 3, channels=1)).expand(3, 8, 8))
    grey = everything(opened(halves, channels=1).load_train())
    assert grey.shape == (18, 1, 8, 8)
    assert torch.equal(grey[0], transforms.ToTensor()(picture(0, 0).convert("L")))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def _deep(path: Path) -> None:
    Image.new("I;16", (8, 8)).save(path)


def _without_images(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "notes.txt").write_text("none")


IMAGE = "train/bee/002.png"
MISTAKES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "truncated image": (lambda at: _truncate(at / IMAGE), IMAGE, "cannot be read as an image"),
    "no image at all": (lambda at: (at / IMAGE).write_text("hello"), IMAGE, "no known format"),
    "16-bit image": (lambda at: _deep(at / IMAGE), IMAGE, "more than 8 bits"),
    "other size": (
        lambda at: picture(1, 2, height=9).save(at / IMAGE),
        IMAGE,
        "is 9×8, and the data set's first image is 8×8\n    `size: N`",
    ),
    "class without images": (
        lambda at: _without_images(at / "train" / "bee"),
        "train/bee",
        "class folder with no images (.bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp) in it "
        "but 1 other files, such as notes.txt",
    ),
    "class that is not tested": (
        lambda at: shutil.rmtree(at / "test" / "cat"),
        "test",
        "no class folder cat",
    ),
    "class that is not trained": (
        lambda at: shutil.rmtree(at / "train" / "cat"),
        "train",
        "no class folder cat",
    ),
    "image of no class": (lambda at: picture(0, 0).save(at / "test" / "x.png"), "test/x.png", "no class"),
    "train alone": (lambda at: shutil.rmtree(at / "test"), "train", "no test/ or val/"),
    "a link to where it is": (
        lambda at: (at / "train" / "bee" / "again").symlink_to(at / "train"),
        "train/bee/again",
        "a link to a folder that it is in",
    ),
    "halves of other names": (
        lambda at: [(at / name).rename(at / name.title()) for name in ("train", "test")],
        "",
        "Test/ and Train/ look like parts of a split, not like classes",
    ),
    "a name that is no text": (
        lambda at: (at / IMAGE).rename(os.fsdecode(bytes(at / "train" / "bee") + b"/caf\xe9.png")),
        "train/bee/caf\\xe9.png",
        "a name that is not UTF-8",
    ),
    "nothing there": (lambda at: shutil.rmtree(at), "", "no such file or folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_messages_about_wrong_images_name_the_file(halves: Path, mistake: str) -> None:
    spoil, place, words = MISTAKES[mistake]
    spoil(halves)
    message = refusal(halves)
    assert message.startswith(f"{halves}/{place}".rstrip("/") + ": ")
    assert words in message


def test_a_zip_that_cannot_be_read_is_named(halves: Path, tmp_path: Path) -> None:
    packed = zipped(halves, tmp_path / "a.zip")
    whole = packed.read_bytes()
    packed.write_bytes(whole[:5000])
    assert refusal(packed).startswith(f"{packed}: cannot be read as a zip")
    # the files are stored one after the other, uncompressed: damage the last one
    packed.write_bytes(whole)
    at = whole.rindex(b"IDAT")
    packed.write_bytes(whole[:at] + b"JUNK" + whole[at + 4 :])
    assert refusal(packed).startswith(f"{packed}/train/cat/005.png: cannot be read from the zip")


def test_a_tar_is_refused_with_a_hint(halves: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.add(halves, "halves")
    assert "unpacked first" in refusal(tmp_path / "a.tar")


def test_a_zip_may_write_its_entry_names_in_several_ways(halves: Path, tmp_path: Path) -> None:
    wanted = opened(zipped(halves, tmp_path / "a.zip"))
    odd = tmp_path / "odd.zip"
    with zipfile.ZipFile(odd, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two entries with the same name
        for member in sorted(path for path in halves.rglob("*") if path.is_file()):
            name = member.relative_to(halves).as_posix()
            file.write(member, f"./{name}" if "bee" in name else name.replace("/", "\\"))
            file.write(member, name)
    read = opened(odd)
    assert read.class_names == wanted.class_names
    for ours, theirs in ((read.load_train(), wanted.load_train()), (read.load_test(), wanted.load_test())):
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(everything(ours), everything(theirs))


def test_parameters_that_contradict_each_other_are_refused(halves: Path) -> None:
    assert "`test` is for folders without a split" in refusal(halves, test=0.5)
    for wrong in ({"resize": 9}, {"size": 9, "resize": 8}, {"channels": 2}):
        with pytest.raises(ValueError, match=r"resize|channels"):
            FolderConfig(path="x", **wrong)


def test_the_fingerprint_depends_on_content_and_names(halves: Path, tmp_path: Path) -> None:
    before = opened(halves).fingerprint()
    shutil.copytree(halves, tmp_path / "copy")
    assert opened(tmp_path / "copy").fingerprint() == before
    image = tmp_path / "copy" / "test" / "cat" / "101.png"
    pixels = Image.open(image).copy()
    pixels.putpixel((0, 0), (1, 2, 3))
    pixels.save(image)
    assert opened(tmp_path / "copy").fingerprint() != before
    (tmp_path / "copy" / "test" / "cat" / "101.png").rename(tmp_path / "copy" / "test" / "bee" / "200.png")
    picture(2, 101).save(tmp_path / "copy" / "test" / "bee" / "200.png")
    assert opened(tmp_path / "copy").fingerprint() != before


def test_the_fingerprint_of_a_large_set_is_cached_while_times_and_sizes_stay(
    halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = opened(halves).fingerprint()
    assert not (tmp_path / "home").exists()
    monkeypatch.setattr(content, "_LARGE", 0)
    assert opened(halves).fingerprint() == expected
    read = content.digest_of_file
    digested: list[Path] = []
    monkeypatch.setattr(content, "digest_of_file", lambda path: (digested.append(path), read(path))[1])
    assert opened(halves).fingerprint() == expected
    assert digested == []
    image = halves / IMAGE
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert opened(halves).fingerprint() != expected
    assert halves / IMAGE in digested
