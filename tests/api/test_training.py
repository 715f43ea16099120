"""Trainings that are interrupted, diverge or fail; and the training loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import benchmark.api.training
from benchmark.api.dataset import TrainingData
from benchmark.api.training import Loop, steps_of
from benchmark.datasets.digits import Digits
from benchmark.execution.observer import Silent
from benchmark.plan.tasks import Task
from benchmark.plugins.plugin import Config, Plugin
from benchmark.runs import CompletedRun, execute_run, plan_run

GRID = {
    "name": "training",
    "datasets": [{"name": "few-digits", "n": 2}],
    "targets": ["nearest-mean"],
    "source": "target",
    "attacks": [{"name": "fgsm", "eps": 0.1}],
    "threats": ["black-box"],
}
DEFENSES: dict[str, dict[str, Any]] = {
    "staged": {"name": "staged"},
    "puvae": {"name": "puvae", "epochs": 1, "min_steps": 0, "batch_size": 100, "latent": 4, "check_every": 0},
    "ape-gan": {"name": "ape-gan", "epochs": 1, "min_steps": 0, "batch_size": 16},
    "defense-gan": {
        "name": "defense-gan",
        "generator": "dcgan",
        "bfloat16": True,
        "latent": 4,
        "steps": 6,
        "critic_steps": 2,
        "batch_size": 8,
        "check_every": 0,
        "encoder_steps": 11,
        "restarts": 1,
        "iterations": 1,
    },
}


class Listener(Silent):
    """Records the steps of defense trainings, and interrupts one at each of `cuts` (indices)."""

    def __init__(self, *cuts: int) -> None:
        self.cuts = set(cuts)
        self.steps: list[int] = []

    def training(self, task: Task, done: int, total: int, figures: Mapping[str, float]) -> None:
        if task.kind == "train-defense":
            self.steps.append(done)
            if len(self.steps) in self.cuts:
                raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def checkpoints_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.api.training, "CHECKPOINT_SECONDS", 0)


def _train(plugin: Path, folder: Path, defense: dict[str, Any], observer: Silent) -> CompletedRun:
    """Run the grid with one defense, in a store in that folder."""
    grid = GRID | {"defenses": [defense]}
    prepared = plan_run(grid, observer, store=str(folder), plugins=[plugin], device="cpu")
    return execute_run(prepared, observer, folder.with_name(f"{folder.name}-out"))


@pytest.fixture
def train(constructed: Path, tmp_path: Path) -> Callable[..., CompletedRun]:
    """Runs the grid with one defense, in the store of that name."""

    def run(defense: dict[str, Any], store: str, observer: Silent | None = None) -> CompletedRun:
        return _train(constructed, tmp_path / store, defense, observer or Silent())

    return run


@pytest.fixture(scope="module")
def uncut(
    constructed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[list[int], Path]]:
    """The steps of a whole training, and the store with its weights."""

    @cache
    def run(name: str) -> tuple[list[int], Path]:
        listener, store = Listener(), tmp_path_factory.mktemp(name) / "store"
        assert not _train(constructed, store, DEFENSES[name], listener).failed
        return listener.steps, store

    return run


def _weights(store: Path) -> dict[str, Tensor]:
    (path,) = store.glob("train-defense/*/*.safetensors")
    return load_file(path)


def _seconds(store: Path, kind: str) -> float:
    (path,) = store.glob(f"{kind}/*/*.json")
    return float(json.loads(path.read_text())["meta"]["seconds"])


def _curve(store: Path) -> list[dict[str, float]]:
    """The reports of the training, as stored with its weights."""
    (path,) = store.glob("train-defense/*/*.json")
    return list(json.loads(path.read_text())["meta"]["curve"])


def _checkpoints(store: Path) -> list[Path]:
    return [path for path in store.glob("checkpoint/*/*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("staged", (4,)),  # in the first stage
        ("staged", (7,)),  # in its last step
        ("staged", (8,)),  # in the first step of the second stage
        ("staged", (10,)),  # in the second stage
        ("staged", (12,)),  # in the very last step
        ("staged", (3, 4, 9)),  # several times
        ("ape-gan", (1,)),
        ("puvae", (1,)),  # a fused optimizer, weights with channels last
        ("defense-gan", (1,)),  # in the tenth step of the first stage
        ("defense-gan", (3,)),  # in the tenth step of the second stage
    ],
)
def test_an_interrupted_training_that_is_resumed_ends_with_the_same_weights(
    train: Callable[..., CompletedRun],
    uncut: Callable[[str], tuple[list[int], Path]],
    tmp_path: Path,
    name: str,
    cuts: tuple[int, ...],
) -> None:
    whole, store = uncut(name)
    before = 0
    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            train(DEFENSES[name], "cut", Listener(cut - before))
        before = cut - 1  # the interrupted step is repeated
        assert len(_checkpoints(tmp_path / "cut")) == 2  # tensors and their entry
        assert not list((tmp_path / "cut").glob("train-defense/*/*"))
        spent = _seconds(tmp_path / "cut", "checkpoint")
    last = Listener()
    assert not train(DEFENSES[name], "cut", last).failed
    assert last.steps == whole[-len(last.steps) :]
    again = len(last.steps) - (len(whole) - cuts[-1])
    assert again == (2 if cuts == (8,) else 1)  # a stage has checkpoints from its first step on

    expected, found = _weights(store), _weights(tmp_path / "cut")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    assert _seconds(tmp_path / "cut", "train-defense") > spent
    assert _curve(tmp_path / "cut") == _curve(store)
    assert [point["step"] for point in _curve(store)] == whole
    assert not _checkpoints(store)
    assert not _checkpoints(tmp_path / "cut")


def test_other_parameters_do_not_resume_an_interrupted_training(
    train: Callable[..., CompletedRun], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(DEFENSES["ape-gan"], "store", Listener(1))
    listener = Listener()
    train(DEFENSES["ape-gan"] | {"lr": 1e-3}, "store", listener)
    assert listener.steps[0] == 10
    assert len(_checkpoints(tmp_path / "store")) == 2  # that of the interrupted training


def test_with_a_damaged_checkpoint_a_training_starts_from_the_beginning(
    train: Callable[..., CompletedRun], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(DEFENSES["staged"], "store", Listener(5))
    (payload,) = (tmp_path / "store").glob("checkpoint/*/*.safetensors")
    payload.write_bytes(payload.read_bytes()[:-4] + b"xxxx")
    listener = Listener()
    assert not train(DEFENSES["staged"], "store", listener).failed
    assert listener.steps[0] == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("reports-nan", "training fails-late diverged: loss is nan in epoch 2, step 5 of 5"),
        ("weights-nan", "training fails-late diverged: weights amount are not finite"),
        ("raises", "RuntimeError: out of training fluid"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_a_failed_training_gives_the_reason_and_stores_nothing(
    train: Callable[..., CompletedRun], tmp_path: Path, how: str, reason: str
) -> None:
    finished = train({"name": "fails-late", "how": how}, "store")
    (row,) = finished.records
    assert row["status"] == "failed"
    assert reason in row["reason"]
    assert not list((tmp_path / "store").glob("train-defense/*/*"))
    assert not _checkpoints(tmp_path / "store")


# --- the loop ---------------------------------------------------------------------------------------


class Trainee(Plugin[Config]):
    """Records the reports of its training."""

    def __init__(self) -> None:
        super().__init__(Config())
        self.reports: list[tuple[int, int, dict[str, float]]] = []
        self.reporter = lambda done, total, figures: self.reports.append((done, total, dict(figures)))


class Memory:
    """Checkpoints in memory."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] | None = None

    def load(self) -> dict[str, Tensor] | None:
        return self.state

    def save(self, state: Mapping[str, Tensor]) -> None:
        self.state = {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    splits = Digits(Config(), Path()).splits()
    return TrainingData(splits.train, splits.validation, (1, 28, 28), 10, torch.device("cpu"))


def _loop(plugin: Plugin[Any], data: TrainingData, batch_size: int, steps: int, **kept: Any) -> Loop:
    return Loop(plugin, data, torch.Generator().manual_seed(0), batch_size=batch_size, steps=steps, **kept)


def test_each_epoch_is_a_pass_over_the_images_in_another_order(data: TrainingData) -> None:
    loop = _loop(Trainee(), data, 400, 6)
    per_epoch = data.batches_per_epoch(400)
    assert (len(data.train), per_epoch, loop.per_epoch) == (1097, 2, 2)
    epochs: dict[int, list[Tensor]] = {}
    for images, labels in loop:
        assert images.shape == (400, 1, 28, 28)
        assert labels.shape == (400,)
        epochs.setdefault(loop.epoch, []).append(images)
    assert {epoch: len(batches) for epoch, batches in epochs.items()} == {1: 2, 2: 2, 3: 2}
    everything = {bytes(image.numpy()) for image in data.train.take(torch.arange(len(data.train)))}
    first, second = (torch.cat(epochs[epoch]) for epoch in (1, 2))
    for batch in (first, second):
        seen = [bytes(image.numpy()) for image in batch]
        assert len(set(seen)) > 0.98 * len(seen)  # some digits are identical
        assert set(seen) <= everything
    assert not torch.equal(first, second)


def test_stop_makes_the_current_step_the_last(data: TrainingData) -> None:
    trainee = Trainee()
    for _ in (loop := _loop(trainee, data, 64, 100)):
        if loop.step == 4:
            loop.stop()
            assert loop.every(1000)
        loop.report(loss=0.5)
    assert (loop.step, loop.steps) == (4, 4)
    assert trainee.reports == [(4, 4, {"epoch": 1.0, "loss": 0.5})]


def test_a_stopped_loop_does_not_run_again_when_a_later_one_is_resumed(data: TrainingData) -> None:
    trainee = Trainee()
    trainee.checkpoints = Memory()
    for _ in (first := _loop(trainee, data, 64, 100)):
        if first.step == 3:
            first.stop()
    assert trainee.checkpoints.load()["loop.step"] == 2
    for _ in (second := _loop(trainee, data, 64, 5)):
        if second.step == 3:
            break
    later = Trainee()
    later.checkpoints = trainee.checkpoints
    assert [0 for _ in _loop(later, data, 64, 100)] == []
    again = _loop(later, data, 64, 5)
    assert [again.step for _ in again] == [3, 4, 5]


def test_every_is_true_at_multiples_and_in_the_last_step(data: TrainingData) -> None:
    loop = _loop(Trainee(), data, 64, 11)
    assert [loop.step for _ in loop if loop.every(4)] == [4, 8, 11]


def test_every_tenth_step_is_reported_with_its_epoch(data: TrainingData) -> None:
    trainee = Trainee()
    for _ in (loop := _loop(trainee, data, 64, 36)):  # 17 batches make an epoch
        loop.report(loss=torch.tensor(float(loop.step)))
    steps = [(done, total, figures["epoch"]) for done, total, figures in trainee.reports]
    assert steps == [(10, 36, 1), (20, 36, 2), (30, 36, 2), (36, 36, 3)]
    assert [figures["loss"] for _, _, figures in trainee.reports] == [10, 20, 30, 36]


@pytest.mark.parametrize(("limit", "steps"), [(None, 9), (3, 3), (20, 9)])
def test_the_step_limit_is_an_upper_limit(data: TrainingData, limit: int | None, steps: int) -> None:
    trainee = Trainee()
    trainee.step_limit = limit
    loop = _loop(trainee, data, 64, 9)
    assert loop.steps == steps
    assert len(list(loop)) == steps


def test_steps_are_whole_epochs(data: TrainingData) -> None:
    assert data.batches_per_epoch(64) == 17
    assert steps_of(data, epochs=2, batch_size=64) == 34
    assert steps_of(data, epochs=2, batch_size=64, at_least=34) == 34
    assert steps_of(data, epochs=2, batch_size=64, at_least=35) == 51
    assert steps_of(data, epochs=2, batch_size=5000, at_least=3) == 3  # one smaller batch is an epoch


def test_there_is_no_checkpoint_in_the_last_step_or_before_the_interval(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee = Trainee()
    trainee.checkpoints = Memory()
    monkeypatch.setattr(benchmark.api.training, "CHECKPOINT_SECONDS", 3600)
    list(_loop(trainee, data, 64, 5))
    assert trainee.checkpoints.load() is None
    monkeypatch.setattr(benchmark.api.training, "CHECKPOINT_SECONDS", 0)
    list(_loop(trainee, data, 64, 1))
    assert trainee.checkpoints.load() is None


def test_all_kept_state_is_restored(data: TrainingData) -> None:
    """Modules with their buffers, optimizers with their moments and step counts, both generators."""

    def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 1))
        return module, torch.optim.Adam(module.parameters(), lr=0.1)

    def go_on(loop: Loop, module: nn.Module, adam: torch.optim.Optimizer, until: int) -> None:
        for images, _ in loop:
            adam.zero_grad()
            (module(images) * torch.randn(1)).mean().backward()
            adam.step()
            if loop.step == until:
                return

    def trainee() -> Trainee:
        made = Trainee()
        made.checkpoints = memory
        return made

    memory = Memory()
    module, adam = parts()
    go_on(_loop(Trainee(), data, 64, 8, module=module, adam=adam), module, adam, 8)
    cut_module, cut_adam = parts()
    go_on(_loop(trainee(), data, 64, 8, module=cut_module, adam=cut_adam), cut_module, cut_adam, 4)
    new_module, new_adam = parts()
    torch.manual_seed(77)  # the global generator must be restored
    loop = _loop(trainee(), data, 64, 8, module=new_module, adam=new_adam)
    go_on(loop, new_module, new_adam, 8)
    for name, tensor in module.state_dict().items():
        assert torch.equal(new_module.state_dict()[name], tensor), name
    assert new_adam.state_dict()["state"][0]["step"] == adam.state_dict()["state"][0]["step"] == 8
