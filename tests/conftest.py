"""Shared fixtures: where real images are, constructed plugins, and a small grid that runs in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from studies import REPOSITORY, data_root


@pytest.fixture
def no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network for anything fails the test."""

    def asked(request: object, *_: object, **__: object) -> None:
        raise AssertionError(f"{request} was asked for")

    monkeypatch.setattr("urllib.request.urlopen", asked)


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
    path = tmp_path_factory.mktemp("plugins") / "toy.py"
    path.write_bytes((REPOSITORY / "tests" / "plugin_files" / "toy.py").read_bytes())
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
        *,
        store: str = session_store,
        out: Path | None = None,
        data: Path | None = None,
        trust: Sequence[Path] = (),
        **keys: Any,
    ) -> pd.DataFrame:
        import benchmark

        grid = {
            "name": "small",
            "datasets": [{"name": "digits", "n": 60}],
            "targets": ["nearest-mean"],
            "source": "target",  # the default source of digits takes half a minute to train
            "defenses": ["identity"],
            "attacks": [{"name": "fgsm", "eps": 0.1}],
            "threats": ["black-box", "white-box"],
        }
        options: dict[str, Any] = {"store": store, "data": data, "plugins": [constructed], "trust": trust}
        return benchmark.run(grid | keys, out=out or tmp_path / "out", **options)

    return run
