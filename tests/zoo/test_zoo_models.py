"""`benchmark.load_…`: plain modules with the weights of the zoo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import benchmark
from benchmark.errors import UserError
from studies import REPOSITORY
from tests.zoo.zoos import GRID, bench, export, run

TRAINED = GRID | {
    "name": "trained",
    "targets": [{"name": "mnist-c", "epochs": 1, "min_steps": 30, "batch_size": 32, "lr": 0.002}],
    "defenses": [
        {"name": "ape-gan", "epochs": 1, "min_steps": 1, "batch_size": 512},
        {"name": "ape-gan", "epochs": 1, "min_steps": 1, "batch_size": 512, "preset": "paper"},
    ],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with a classifier and two trainings of one purifier."""
    folder = tmp_path_factory.mktemp("trained")
    run(TRAINED, folder, [])
    export(folder, None, folder / "zoo")
    return folder / "zoo"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders for store, data and zoo, and no zoo of a checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BENCH_ZOO", raising=False)
    monkeypatch.setattr("benchmark.storage.zoo_layers.SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr("benchmark.storage.zoo_layers.checkout", lambda: None)
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "index.json").write_text('{"format": 1}')
    return tmp_path


def _images() -> torch.Tensor:
    return torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_loaded_modules_have_the_weights_of_the_zoo_and_are_frozen(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_ZOO", str(trained))
    purify = benchmark.load_defense("ape-gan", "digits", seed=0, preset="cpu")
    classifier = benchmark.load_target("mnist-c", "digits")
    pipeline = benchmark.load_pipeline(purify, "mnist-c", "digits")
    (path,) = trained.glob("mnist-c-*")
    for name, tensor in load_file(path).items():
        assert torch.equal(classifier.model.state_dict()[name], tensor)
    x = _images().requires_grad_()
    assert purify(x).shape == x.shape
    assert 0 <= purify(x).min().item() <= purify(x).max().item() <= 1
    assert torch.equal(pipeline(x), classifier(purify(x)))
    assert pipeline(x).shape == (3, 10)
    pipeline(x).sum().backward()
    assert x.grad is not None
    for module in (purify, classifier, pipeline):
        assert not module.training
        assert not [weights for weights in module.parameters() if weights.requires_grad]


def test_the_repr_of_a_module_describes_its_training(trained: Path) -> None:
    text = repr(benchmark.load_defense("ape-gan", "digits", preset="cpu", zoo=str(trained)))
    for part in (
        "ape-gan, trained on digits, seed 0, preset cpu",
        "with mnist-c (target, seed 0)",
        str(trained),
    ):
        assert part in text
    assert "points of clean error" in text
    assert "validation error" in repr(benchmark.load_target("mnist-c", "digits", zoo=str(trained)))
    assert "jpeg for digits, not trained, quality=50" in repr(
        benchmark.load_defense("jpeg", "digits", quality=50)
    )


def test_a_parameter_or_a_key_selects_one_of_several_trainings(trained: Path) -> None:
    with pytest.raises(UserError, match="2 trainings of defense ape-gan") as error:
        benchmark.load_defense("ape-gan", "digits", zoo=str(trained))
    assert "preset paper" in str(error.value)
    key = next(line for line in str(error.value).splitlines() if "preset paper" in line).split("'")[1]
    by_key = benchmark.load_defense("ape-gan", "digits", zoo=str(trained), key=key)
    by_preset = benchmark.load_defense("ape-gan", "digits", zoo=str(trained), preset="paper")
    assert torch.equal(by_key(_images()), by_preset(_images()))


def test_a_shipped_training_is_preferred(
    trained: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = json.loads((trained / "index.json").read_text())
    shipped = [record for record in index["trainings"] if record["preset"] == "paper"]
    (empty_folder / "shipped" / "index.json").write_text(json.dumps(index | {"trainings": shipped}))
    for name in shipped[0]["files"]:
        shutil.copy(trained / name, empty_folder / "shipped")
    monkeypatch.setenv("BENCH_ZOO", str(trained))
    assert "preset paper" in repr(benchmark.load_defense("ape-gan", "digits"))


def test_imported_trainings_are_loaded_from_the_store(trained: Path, empty_folder: Path) -> None:
    assert bench("import", trained, "--store", empty_folder / "store").exit_code == 0
    assert "in the store" in repr(benchmark.load_target("mnist-c", "digits"))


@pytest.mark.parametrize(
    ("name", "dataset", "options", "message"),
    [
        ("no-such", "digits", {}, "unknown defense"),
        ("ape-gan", "mnist", {}, "no weights of defense ape-gan for mnist"),
        ("ape-gan", "digits", {"seed": 7}, "seed 7"),
        ("ape-gan", "digits", {"preset": "best"}, "preset='best'"),
        ("jpeg", "no-such", {}, "unknown dataset"),
        ("jpeg", "digits", {"quality": 1000}, "quality"),
        ("jpeg", "digits", {"kwality": 50}, "no parameter 'kwality'"),
    ],
)
def test_an_error_lists_the_known_trainings(
    name: str, dataset: str, options: dict, message: str, trained: Path
) -> None:
    with pytest.raises(UserError, match=message) as error:
        benchmark.load_defense(name, dataset, zoo=str(trained), **options)
    if "no weights" in str(error.value):
        assert "known: defense ape-gan on digits (defense, seed 0" in str(error.value)


def test_loading_writes_nothing_and_creates_no_store(trained: Path, empty_folder: Path) -> None:
    before = sorted(empty_folder.rglob("*"))
    with pytest.raises(UserError):
        benchmark.load_target("mnist-c", "mnist")
    benchmark.load_defense("jpeg", "mnist")
    assert sorted(empty_folder.rglob("*")) == before


def test_weights_of_another_version_or_an_unknown_plugin_are_refused(
    trained: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.targets.mnist_cnn import MnistC

    monkeypatch.setattr(MnistC, "version", 2)
    with pytest.raises(UserError, match="version 1 of the plugin"):
        benchmark.load_target("mnist-c", "digits", zoo=str(trained))
    run(GRID, tmp_path / "run", [constructed])
    export(tmp_path / "run", constructed, tmp_path / "zoo")
    with pytest.raises(UserError, match="unknown target"):
        benchmark.load_target("nearest-mean", "digits", zoo=str(tmp_path / "zoo"))
    own = {"zoo": str(tmp_path / "zoo"), "plugins": [constructed]}
    assert benchmark.load_target("nearest-mean", "digits", **own)(_images()).shape == (3, 10)
    scaled = benchmark.load_defense("shift", "digits", scale=0.5, **own)
    assert torch.allclose(scaled(_images()), _images() * 0.5 + 0.01)


def test_a_random_defense_draws_new_noise_at_each_call() -> None:
    noisy = benchmark.load_defense("gaussian-noise", "digits")
    assert not torch.equal(noisy(_images()), noisy(_images()))
    pipeline = benchmark.load_pipeline(noisy, torch.nn.Flatten(), "digits")
    assert pipeline(_images()).shape == (3, 784)


def test_an_installed_wheel_loads_in_an_empty_folder(trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("benchmark", "defenses", "attacks", "targets"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    weights = source / "benchmark" / "zoo" / "weights"
    shutil.rmtree(weights)
    shutil.copytree(trained, weights)
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "site", source], check=True)
    (tmp_path / "empty").mkdir()
    code = (
        "import benchmark\nprint(benchmark.__file__)\n"
        "print(benchmark.load_defense('ape-gan', 'digits', preset='cpu'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env={"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path / "empty"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert "ape-gan, trained on digits" in done.stdout
    assert "shipped with the package" in done.stdout
    assert list((tmp_path / "empty").iterdir()) == []
