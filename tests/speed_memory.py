"""Whether memory grows with the number of images: parts of `tests.speed`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from tests.conftest import REPOSITORY, data_root

_MNIST = """
datasets: [{{name: mnist, n: {n}}}]
targets: [{{name: mnist-c, epochs: 1}}]
defenses: [identity, round8, median]
attacks: [{{name: fgsm, eps: [0.1, 0.2, 0.3]}}, {{name: pgd, eps: 0.3, steps: 2}}]
threats: [black-box, white-box]
"""

_IMAGENET = """
datasets: [{{name: imagenet, path: {images}, size: 128, resize: 128, source: nearest-mean, n: {n}}}]
targets: [nearest-mean]
defenses: [identity, {{name: ape-gan, epochs: 1, min_steps: 0, source: target}}]
attacks: [{{name: fgsm, eps: 0.031372549}}]
threats: [black-box, white-box]
"""

_SAMPLE = "imagenet-sample.tar"


def memory() -> None:
    """Peak memory of a whole run with 1,000 and with 10,000 images of MNIST."""
    root = data_root()
    if root is None:
        print("memory: skipped, it needs the MNIST files: name their folder with BENCH_DATA")
        return
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for n in (1000, 10_000):
            place = Path(folder) / str(n)
            place.mkdir()
            peaks[n] = _peak(_MNIST.format(n=n), place, "--data", str(root), "--store", f"{place}/store")
    _tell("MNIST", peaks)


def imagenet() -> None:
    """The same with 200 and with 1,000 images of ImageNet at 128 pixels, APE-GAN for large images among it.

    A class has one image, which serves to train and to test: the classifier errs on none of them when they
    are clean. A run before trains APE-GAN, so that its memory is not what is compared.
    """
    root = data_root()
    if root is None or not (root / _SAMPLE).is_file():
        print(f"imagenet: skipped, it needs {_SAMPLE} beside the MNIST files that BENCH_DATA names")
        return
    plugin = REPOSITORY / "tests" / "constructed.py"
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        with tarfile.open(root / _SAMPLE) as archive:
            archive.extractall(images / "val", filter="data")
        for image in (images / "val").glob("*/*"):
            twice = images / "train" / image.parent.name
            twice.mkdir(parents=True, exist_ok=True)
            for copy in ("once", "again"):  # one may be held out for validation
                (twice / f"{copy}{image.suffix}").symlink_to(image)
        peaks = {}
        for n in (100, 200, 1000):
            place = Path(folder) / str(n)
            place.mkdir()
            options = ["--plugin", str(plugin), "--store", f"{folder}/store"]
            peaks[n] = _peak(_IMAGENET.format(images=images, n=n), place, *options)
        records = pd.read_csv(place / "out" / "records.csv")
    columns = [
        "threat",
        "defense",
        "attack",
        "n",
        "clean_error",
        "error",
        "error_top5",
        "psnr",
        "ssim",
        "flags",
    ]
    print(records[columns].to_string(index=False))
    _tell("ImageNet", {n: peak for n, peak in peaks.items() if n > 100})


def _tell(images: str, peaks: dict[int, float]) -> None:
    (few, low), (many, high) = peaks.items()
    print(
        f"peak memory, {images}: {low:.0f} MB with n {few:,}, {high:.0f} MB with n {many:,}, "
        f"ratio {high / low:.3f}"
    )


def _peak(grid: str, folder: Path, *options: str) -> float:
    """Peak resident megabytes of a process that runs a grid with every file written."""
    (folder / "grid.yaml").write_text(grid)
    code = (
        "import resource, sys; from benchmark.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    arguments = ["run", "--grid", f"{folder}/grid.yaml", "--out", f"{folder}/out", *options]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return int(done.stdout.split()[-1]) / scale
