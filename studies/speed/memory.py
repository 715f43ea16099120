"""Does memory grow with the number of images? Parts of `studies.speed`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from studies import REPOSITORY, data_root

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
    """Print the peak memory of a whole run with 1,000 and with 10,000 images of MNIST."""
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
    _print_peaks("MNIST", peaks)


def imagenet() -> None:
    """Print it with 200 and with 1,000 images of ImageNet at 128 pixels, with APE-GAN for large images.

    Each class has one image, for training and testing, so the clean error is 0. A first run trains APE-GAN,
    so that the memory of the training is not compared.
    """
    root = data_root()
    if root is None or not (root / _SAMPLE).is_file():
        print(f"imagenet: skipped, it needs {_SAMPLE} beside the MNIST files that BENCH_DATA names")
        return
    plugin = REPOSITORY / "tests" / "plugin_files" / "toy.py"
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        with tarfile.open(root / _SAMPLE) as archive:
            archive.extractall(images / "val", filter="data")
        for image in (images / "val").glob("*/*"):
            train = images / "train" / image.parent.name
            train.mkdir(parents=True, exist_ok=True)
            for copy in ("once", "again"):  # one may be held out for validation
                (train / f"{copy}{image.suffix}").symlink_to(image)
        peaks = {}
        for n in (100, 200, 1000):
            place = Path(folder) / str(n)
            place.mkdir()
            options = ["--plugin", str(plugin), "--store", f"{folder}/store"]
            peaks[n] = _peak(_IMAGENET.format(images=images, n=n), place, *options)
        records = pd.read_csv(place / "out" / "records.csv")
    columns = "threat defense attack n clean_error error error_top5 psnr ssim flags"
    print(records[columns.split()].to_string(index=False))
    _print_peaks("ImageNet", {n: peak for n, peak in peaks.items() if n > 100})


def _print_peaks(images: str, peaks: dict[int, float]) -> None:
    (few, low), (many, high) = peaks.items()
    print(
        f"peak memory, {images}: {low:.0f} MB with n {few:,}, {high:.0f} MB with n {many:,}, "
        f"ratio {high / low:.3f}"
    )


def _peak(grid: str, folder: Path, *options: str) -> float:
    """Peak resident megabytes of a process that runs a grid and writes all files."""
    (folder / "grid.yaml").write_text(grid)
    code = (
        "import resource, sys; from benchmark.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    arguments = ["run", "--grid", f"{folder}/grid.yaml", "--out", f"{folder}/out", *options]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return int(done.stdout.split()[-1]) / scale
