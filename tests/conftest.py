"""Shared fixtures: where real images are, constructed plugins, and a small grid that runs in seconds."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# A classifier whose answers are known by construction, and defenses with known faults.
CONSTRUCTED = '''
import torch
from torch import nn
from benchmark.datasets.contract import Dataset, TensorSplit, dataset
from benchmark.datasets.digits import Digits
from benchmark.plugin import Config, infer, param, train
from attacks.contract import Attack, attack
from defenses.contract import Defense, defense
from targets.contract import Target, target


class DimmedConfig(Config):
    light: float = param(1.0, ge=0, le=1)


@target("nearest-mean")
class NearestMean(Target[Config]):
    """Scores are minus the squared distances to the class means: linear, so attacks are predictable."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.register_buffer("means", torch.zeros(num_classes, pixels))

    def fit(self, data, generator):
        images = data.train.take(torch.arange(len(data.train))).flatten(1).to(data.device)
        labels = data.train.labels.to(data.device)
        for label in range(data.num_classes):
            self.means[label] = images[labels == label].mean(dim=0)
        self.report(1, 1, classes=float(data.num_classes))

    def forward(self, x):
        return x.flatten(1) @ self.means.T - self.means.square().sum(dim=1) / 2


class ShiftConfig(Config):
    strength: float = train(0.0, ge=0, le=1)
    scale: float = infer(1.0, ge=0, le=1)


@defense("shift")
class Shift(Defense[ShiftConfig]):
    """Trained (it stores one number) and scaled afterwards: one `train` and one `infer` field."""

    trainable = True

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.amount = nn.Parameter(torch.zeros(1))

    def fit(self, data, source, generator):
        with torch.no_grad():
            self.amount.fill_(self.config.strength)
        self.report(1, 1, amount=self.config.strength)

    def purify(self, x, noise):
        return (x * self.config.scale + self.amount).clamp(0, 1)


@defense("detached")
class Detached(Defense[Config]):
    """The identity with its gradient cut: robust only to attackers who believe in gradients."""

    def purify(self, x, noise):
        return x.detach().clone()


@defense("noisy")
class Noisy(Defense[Config]):
    stochastic = True

    def purify(self, x, noise):
        return (x + 0.2 * noise.normal_like(x)).clamp(0, 1)


@defense("constant")
class Constant(Defense[Config]):
    """Forgets the image altogether."""

    trainable = True

    def fit(self, data, source, generator):
        pass

    def purify(self, x, noise):
        return torch.full_like(x, 0.5) + 0 * x


@defense("returns-nan")
class ReturnsNan(Defense[Config]):
    def purify(self, x, noise):
        return x * float("nan")


@defense("returns-shape")
class ReturnsShape(Defense[Config]):
    def purify(self, x, noise):
        return x[:, :, :-1]


@defense("returns-range")
class ReturnsRange(Defense[Config]):
    def purify(self, x, noise):
        return x * 2


@defense("writes-input")
class WritesInput(Defense[Config]):
    def purify(self, x, noise):
        with torch.no_grad():
            return x.mul_(0.5)


@defense("writes-memory")
class WritesMemory(Defense[Config]):
    """Darkens its input behind torch's back."""

    def purify(self, x, noise):
        x.detach().numpy()[:] *= 0.5
        return x


@defense("ruins-source")
class RuinsSource(Defense[Config]):
    trainable = True

    def fit(self, data, source, generator):
        source.train()
        source.means.zero_()

    def purify(self, x, noise):
        return x


@defense("hidden-randomness")
class HiddenRandomness(Defense[Config]):
    """Random from torch's global generator, and does not say so."""

    def purify(self, x, noise):
        return (x + 0.2 * torch.randn_like(x)).clamp(0, 1)


@defense("exits")
class Exits(Defense[Config]):
    def purify(self, x, noise):
        raise SystemExit(0)


@defense("raises")
class Raises(Defense[Config]):
    def purify(self, x, noise):
        raise RuntimeError("out of purifier fluid")


@defense("diverges")
class Diverges(Defense[Config]):
    trainable = True

    def fit(self, data, source, generator):
        self.report(3, 10, loss=float("nan"))

    def purify(self, x, noise):
        return x


@dataset("dimmed")
class Dimmed(Digits, Dataset[DimmedConfig]):
    """Digits with a parameter."""

    @classmethod
    def config_type(cls):
        return DimmedConfig

    def load_test(self):
        test = super().load_test()
        return TensorSplit(test.images.float() / 255 * self.config.light, test.labels)


@attack("leaves-ball")
class LeavesBall(Attack[Config]):
    eps = 0.1
    norm = "linf"

    def craft(self, surface, x, labels, noise, start=None):
        return 1 - x


@attack("gives-up")
class GivesUp(Attack[Config]):
    """Returns its input: the weakest attack there is."""

    eps = 0.1
    norm = "linf"
    mandatory = True

    def craft(self, surface, x, labels, noise, start=None):
        surface(x)
        return x


@attack("crashes")
class Crashes(Attack[Config]):
    eps = 0.1
    norm = "linf"

    def craft(self, surface, x, labels, noise, start=None):
        raise ValueError("no step size")
'''


def data_root() -> Path | None:
    """The folder with the real images, where there is one."""
    given = os.environ.get("BENCH_DATA")
    if given and (Path(given) / "MNIST").is_dir():
        return Path(given)
    return None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """MNIST and Fashion-MNIST; skips where they are not, unless BENCH_REQUIRE_DATA forbids that."""
    root = data_root()
    if root is None:
        message = "needs the real MNIST files: name their folder with BENCH_DATA"
        if os.environ.get("BENCH_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return root


@pytest.fixture(scope="session")
def constructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin file with a classifier and defenses whose behaviour is known by construction."""
    path = tmp_path_factory.mktemp("plugins") / "constructed.py"
    path.write_text(textwrap.dedent(CONSTRUCTED), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def session_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests that do not care which results are in it already."""
    return str(tmp_path_factory.mktemp("store"))


Runner = Callable[..., pd.DataFrame]


@pytest.fixture
def small_run(constructed: Path, session_store: str, tmp_path: Path) -> Runner:
    """Runs a grid on 60 digits against the constructed classifier; keyword arguments are grid keys."""

    def run(
        *, store: str = session_store, out: Path | None = None, data: Path | None = None, **keys: Any
    ) -> pd.DataFrame:
        import benchmark

        grid = {
            "name": "small",
            "datasets": [{"name": "digits", "n": 60}],
            "targets": ["nearest-mean"],
            "defenses": ["identity"],
            "attacks": [{"name": "fgsm", "eps": 0.1}],
            "threats": ["black-box", "white-box"],
        }
        return benchmark.run(
            grid | keys, out=out or tmp_path / "out", store=store, data=data, plugins=[constructed]
        )

    return run
