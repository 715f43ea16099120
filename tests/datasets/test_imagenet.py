"""Layouts of ImageNet, and streamed splits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torchvision import transforms
from torchvision.datasets import ImageNet as Torchvision

from benchmark.datasets.imagenet import ImageNet, ImageNetConfig
from benchmark.datasets.reading.streaming import StreamedSplit
from benchmark.errors import MissingImagesError, UserError
from tests.datasets.pictures import picture, write_classes

WNIDS = ("n01440764", "n01443537", "n01484850", "n02123045")
META = {wnid: (f"name {label}", "another name") for label, wnid in enumerate(WNIDS)}


def opened(root: Path, **config: object) -> ImageNet:
    data = ImageNet(ImageNetConfig(size=16, **config), root)
    data.prepare()
    return data


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The folder as torchvision unpacks the archives."""
    folder = tmp_path / "imagenet"
    write_classes(folder / "val", WNIDS[1:3], count=2, height=30, width=40)
    write_classes(folder / "train", WNIDS, count=3, start=10, height=40, width=30)
    torch.save((META, ["n01440764"]), folder / "meta.bin")
    return folder


def test_torchvisions_layout_is_read_as_torchvision_reads_it(layout: Path, tmp_path: Path) -> None:
    data = opened(tmp_path)
    steps = [transforms.Resize(18), transforms.CenterCrop(16), transforms.ToTensor()]
    reference = Torchvision(str(layout), "train", transform=transforms.Compose(steps))
    assert data.class_names == ("name 0", "name 1", "name 2", "name 3")
    assert data.image_shape == (3, 16, 16)
    train = data.load_train()
    assert train.labels.tolist() == reference.targets
    assert torch.equal(train.take(torch.arange(12)), torch.stack([image for image, _ in reference]))
    # a class keeps its label if other classes have no test images, unlike in a reader that counts folders
    assert data.load_test().labels.tolist() == [1, 1, 2, 2]
    assert len(data.splits().validation) == 1
    assert opened(tmp_path, resize=16).load_test().take(torch.arange(1)).shape == (1, 3, 16, 16)


def test_grey_photographs_become_rgb(layout: Path, tmp_path: Path) -> None:
    picture(0, 0, 30, 30, channels=1).save(layout / "val" / WNIDS[1] / "000.png")
    image = opened(tmp_path).load_test().take(torch.tensor([0]))[0]
    assert torch.equal(image[0], image[1])


def test_the_meta_file_is_part_of_the_fingerprint(layout: Path, tmp_path: Path) -> None:
    before = opened(tmp_path).fingerprint()
    torch.save((dict(reversed(META.items())), []), layout / "meta.bin")
    assert opened(tmp_path).fingerprint() != before


def test_folders_of_all_wordnet_ids_alone_are_test_images(tmp_path: Path) -> None:
    wnids = [f"n{number:08}" for number in range(1_440_764, 1_441_764)]
    for label, wnid in enumerate(wnids):
        (tmp_path / "sample" / wnid).mkdir(parents=True)
        picture(label % 3, 0, 8, 8).save(tmp_path / "sample" / wnid / "a.JPEG")
    data = opened(tmp_path, path="sample")
    assert data.class_names[:2] == ("tench", "goldfish")
    assert data.class_names[999] == "toilet tissue"
    assert data.load_test().labels.tolist() == list(range(1000))
    splits = data.splits()
    with pytest.raises(UserError, match="sample has no images to train with"):
        splits.train.take(torch.arange(1))
    # the first hundred of a thousand classes would all be animals
    first = splits.test.labels[:200].tolist()
    assert len(set(first)) == 200
    assert 60 < sum(label >= 500 for label in first) < 140


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    with pytest.raises(MissingImagesError, match="imagenet: is empty"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda at: (at / "meta.bin").write_bytes(b"hello"), "meta.bin: is no meta file of torchvision's"),
        (lambda at: (at / "meta.bin").unlink(), "imagenet: holds 2 class folders and no meta.bin"),
        (
            lambda at: (at / "val" / WNIDS[1]).rename(at / "val" / "n99999999"),
            "n99999999 is no ImageNet class",
        ),
        (
            lambda at: (at / "val").rename(at / "validation"),
            "imagenet: holds neither val/ nor folders named by",
        ),
    ],
)
def test_another_layout_is_refused(layout: Path, tmp_path: Path, spoil, words: str) -> None:
    spoil(layout)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert words in str(caught.value)


class Counting:
    """Decodes an index to an image of that value, and counts."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.calls = 0
        self.threads: set[int] = set()

    def __call__(self, index: int) -> torch.Tensor:
        self.calls += 1
        self.threads.add(threading.get_ident())
        if index == 13:
            raise UserError("thirteen cannot be read")
        return torch.full((3, self.side, self.side), index, dtype=torch.uint8)


@pytest.mark.parametrize(("side", "calls"), [(64, 3), (65, 6)])
def test_small_images_are_decoded_once_and_others_each_time(side: int, calls: int) -> None:
    decode = Counting(side)
    split = StreamedSplit(torch.arange(20), (3, side, side), decode)
    for _ in range(2):
        images = split.subset(torch.arange(19, -1, -1)).take(torch.tensor([0, 19, 1]))
        assert images[:, 0, 0, 0].mul(255).round().tolist() == [19, 0, 18]
    assert decode.calls == calls
    assert threading.get_ident() not in decode.threads


@pytest.mark.parametrize("side", [64, 65])
def test_an_image_that_cannot_be_decoded_raises_each_time(side: int) -> None:
    split = StreamedSplit(torch.arange(20), (3, side, side), Counting(side))
    for _ in range(2):
        with pytest.raises(UserError, match="thirteen"):
            split.take(torch.arange(20))
    assert split.take(torch.tensor([12]))[0, 0, 0, 0].mul(255).round() == 12


def test_many_small_images_are_not_cached() -> None:
    decode = Counting(64)
    split = StreamedSplit(torch.zeros(50_000), (3, 64, 64), decode)
    split.take(torch.tensor([5]))
    split.take(torch.tensor([5]))
    assert decode.calls == 2
