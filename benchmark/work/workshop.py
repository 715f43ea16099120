"""Where tasks get their inputs: data, trained models, earlier results; each loaded once and kept a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.contract import Attack
from benchmark.datasets.contract import Dataset, Splits, TrainingData
from benchmark.datasets.watched import own_places, places_of, watched, watched_splits
from benchmark.errors import PluginError, UserError
from benchmark.files import digest_of_file, linked
from benchmark.keys import digest
from benchmark.opened_files import Used, merged, record_use, watching
from benchmark.purifier import PurifierModule
from benchmark.refs import DatasetRef, PluginRef
from benchmark.registry import Registry
from benchmark.store import Address, Store
from benchmark.tasks import Craft, Handed, Purifier, Shard, Task, TrainAttack, TrainDefense, TrainTarget
from benchmark.training import weights_digest
from benchmark.work.given import answers, are_the_same
from benchmark.work.provenance import Difference, Provenance, Reuse
from benchmark.work.recent import Recent
from benchmark.work.scale import factor_of, sample
from benchmark.work.seeding import seeded
from defenses.contract import Defense
from targets.contract import GivenTarget, Target

_MODELS_KEPT = 8
_DATASETS_KEPT = 4
_RESULT_BYTES_KEPT = 256 * 2**20

Training = TrainTarget | TrainDefense | TrainAttack
OnTraining = Callable[[Task, int, int, Mapping[str, float]], None]


def address(task: Task) -> Address:
    """Where the store keeps the result of a task."""
    return Address(task.kind, task.label, task.key)


class Workshop:
    """Data, models and results for the tasks that run in this process.

    Args:
        registry: Where the plugins are.
        store: Where the results are.
        data: Root folder of the data sets.
        device: Where models run.
        on_training: Told of the progress of trainings.
        perform: Does a task again whose result was lost or damaged.
        budget: Passes for each image, forwards and backwards, that an attack may ask of its surface.
        trusted: What may run code when a classifier is read: a `Trust`, or files as resolved paths.
        provenance: Tells what results are made with.
        reuse: Which stored results count.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        data: Path,
        device: torch.device,
        on_training: OnTraining,
        perform: Callable[[Task, Workshop], None],
        provenance: Provenance,
        budget: float = float("inf"),
        trusted: Collection[Path] = (),
        reuse: Reuse = "any",
    ) -> None:
        self.registry = registry
        self.store = store
        self.device = device
        self.on_training = on_training
        self.budget = budget
        self.reuse = reuse
        self._provenance = provenance
        self._trusted = trusted
        self._perform = perform
        self._data = data
        self._datasets: Recent[Dataset[Any]] = Recent(_DATASETS_KEPT)
        self._splits: Recent[Splits] = Recent(_DATASETS_KEPT)
        self._models: Recent[nn.Module] = Recent(_MODELS_KEPT)
        self._factors: dict[str, float] = {}
        self._results: Recent[dict[str, Tensor]] = Recent(_RESULT_BYTES_KEPT, _bytes)
        self._opened: dict[str, Mapping[str, list[str]]] = {}
        self._used = Used()

    @property
    def allowance(self) -> str:
        """The budget in words."""
        return f"the grid's budget of {self.budget:.0f} passes per image"

    def plugin(self, kind: str, ref: PluginRef) -> tuple[type[Any], Any]:
        """The class of a plugin and its typed configuration."""
        cls = self.registry.get(kind, ref.name).load()
        for name, declared in ref.files.items():
            if digest_of_file(declared.path) != declared.sha256:
                raise PluginError(f"{kind} {ref.name}: the file of {name} has changed since the run began")
        paths = {name: str(linked(file.path, file.sha256)) for name, file in ref.files.items()}
        parameters = {**ref.config, **paths}
        own = [file.path for file in ref.files.values()]
        if kind == "dataset":
            own += places_of(parameters, self._data)
        with watching(kind, cls, own=own):  # validators and defaults may open files, too
            return cls, cls.config_type()(**parameters)

    def dataset(self, ref: DatasetRef) -> Dataset[Any]:
        """An opened data set, for its shape and class names."""

        def open_it() -> Dataset[Any]:
            cls, config = self.plugin("dataset", ref)
            with watching("dataset", cls, config, own=tuple(own_places(config, self._data))):
                opened: Dataset[Any] = cls(config, self._data)
                opened.prepare()
            return opened

        with watched(dataset := self._datasets.get(digest(ref.content), open_it)):
            return dataset  # a task depends on it, also where it was opened for another one

    def splits(self, ref: DatasetRef) -> Splits:
        """The images of a data set."""
        dataset = self.dataset(ref)
        return self._splits.get(digest(ref.content), lambda: watched_splits(dataset))

    def training_data(self, ref: DatasetRef) -> TrainingData:
        """What plugins are trained on: never the test images."""
        splits = self.splits(ref)
        dataset = self.dataset(ref)
        return TrainingData(
            splits.train, splits.validation, dataset.image_shape, len(dataset.class_names), self.device
        )

    def clean(self, shard: Shard) -> tuple[Tensor, Tensor]:
        """Test images and labels of a shard, on the device."""
        test = self.splits(shard.dataset).test
        indices = torch.arange(shard.start, shard.stop)
        return test.take(indices).to(self.device), test.labels[indices].to(self.device)

    def images(self, craft: Craft | Handed | None, shard: Shard) -> Tensor:
        """The images that a craft made or somebody handed in, or the clean ones, on the device."""
        if craft is None:
            return self.clean(shard)[0]
        return self.tensors(craft)["images"].clone().to(self.device)

    def tensors(self, task: Task) -> dict[str, Tensor]:
        """The stored result of a task; computed again where the store finds it damaged."""
        return self._results.get(task.key, lambda: self._read(task, self.store.get_tensors))

    def table(self, task: Task) -> Any:
        """The stored pyarrow table of a task; computed again where the store finds it damaged."""
        return self._read(task, self.store.get_table)

    def meta(self, task: Task) -> dict[str, Any]:
        """The metadata of a stored result."""
        return self._read(task, self.store.meta)  # type: ignore[no-any-return]

    def put_tensors(self, task: Task, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Store the result of a task, with what it was made of and with."""
        self.store.put_tensors(address(task), tensors, self._noted(task, meta))

    def put_table(self, task: Task, table: Any, meta: Mapping[str, Any]) -> None:
        """Store the result of a task that is a pyarrow table, with what it was made of and with."""
        self.store.put_table(address(task), table, self._noted(task, meta))

    def _noted(self, task: Task, meta: Mapping[str, Any]) -> dict[str, Any]:
        opened = merged([self._used.opened, *(self.opened(need) for need in task.needs())])
        notes = {"opened": opened} if opened else {}
        return {**meta, **notes, "task": task.content(), "made": self._provenance.of(task)}

    def difference(self, task: Task) -> Difference | None:
        """How the making of a stored result differs from now; None where there is no result any more."""
        meta = self.store.meta(address(task))
        return None if meta is None else self._provenance.difference(task, meta.get("made") or {})

    def opened(self, task: Task) -> Mapping[str, list[str]]:
        """What plugins opened undeclared for the stored result of a task, by plugin."""
        if task.key not in self._opened:
            meta = self.store.meta(address(task))
            if meta is None:  # a result that nothing needs any more
                return {}
            self._opened[task.key] = dict(meta.get("opened", {}))
        return self._opened[task.key]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Store with each result made meanwhile what plugins opened for it and for its inputs."""
        with record_use() as used:
            outer, self._used = self._used, used
            try:
                yield
            finally:
                self._used = outer

    def _read(self, task: Task, get: Callable[[Address], Any]) -> Any:
        stored = get(address(task))
        if stored is None:
            with torch.enable_grad():  # whoever reads it may not need what it takes to make it
                self._perform(task, self)
            stored = get(address(task))
        if stored is None:
            raise RuntimeError(f"the result of {address(task)} cannot be read back")
        return stored

    def new_target(self, task: TrainTarget) -> Target[Any]:
        """An untrained target, or a given one before it is loaded."""
        cls, config = self.plugin("target", task.target)
        shape = self.dataset(task.dataset)
        with _refusals(), watching("target", cls, config):
            return cls(config, shape.image_shape, len(shape.class_names))  # type: ignore[no-any-return]

    def given_target(self, task: TrainTarget) -> GivenTarget[Any]:
        """A target that comes with its weights, on the device, in evaluation mode.

        Raises:
            PluginError: It cannot be loaded, or is not what the key of the task says any more.
        """
        model = self.new_target(task)
        assert isinstance(model, GivenTarget)
        with watching("target", model):
            try:
                found = model.rests_on(model.config, self._trusted)
            except UserError as error:
                raise PluginError(str(error)) from error
            if found != task.target.rests_on:
                raise PluginError(f"{model.origin} has changed since the run began")
            with seeded(task.seed_for("init")):  # a factory may leave weights to chance
                model.load(self._trusted)
        return model.to(self.device).requires_grad_(False).eval()

    def new_defense(self, ref: PluginRef, dataset: DatasetRef) -> Defense[Any]:
        """An untrained defense."""
        cls, config = self.plugin("defense", ref)
        shape = self.dataset(dataset)
        with _refusals(), watching("defense", cls, config):
            return cls(config, shape.image_shape, len(shape.class_names))  # type: ignore[no-any-return]

    def new_attack(self, ref: PluginRef, dataset: DatasetRef) -> Attack[Any]:
        """An attack, with untrained layers where it has any."""
        cls, config = self.plugin("attack", ref)
        shape = self.dataset(dataset)
        with watching("attack", cls, config):
            attack: Attack[Any] = cls(config)
        if attack.trainable:
            with _refusals(), watching("attack", attack):
                attack.build(shape.image_shape, len(shape.class_names))
        return attack

    def attack(self, craft: Craft) -> Attack[Any]:
        """An attack ready for use, with the weights of its training."""
        if craft.training is None:
            return self.new_attack(craft.attack, craft.shard.dataset)
        return self.trained_attack(craft.training)

    def trained_attack(self, task: TrainAttack) -> Attack[Any]:
        """An attack with the weights of a training."""
        attack = self.new_attack(task.attack, task.dataset)
        return self._weighted(attack, task).eval()  # type: ignore[no-any-return]

    def target(self, task: TrainTarget) -> nn.Module:
        """A trained classifier, frozen, in evaluation mode."""

        def load() -> nn.Module:
            if not task.target.trainable:
                return self._given(task)
            model: nn.Module = self._weighted(self.new_target(task), task)
            return model.requires_grad_(False)

        # eval() each time: whoever had the module before may have changed its mode
        return self._models.get(task.key, load).eval()

    def score_factor(self, task: TrainTarget) -> float:
        """What the scores of a classifier are multiplied by before attacks see them; mostly 1.

        It follows from the classifier and the data set alone.
        """
        if task.key not in self._factors:
            model = self.target(task)
            images = sample(self.splits(task.dataset)).to(self.device)
            with torch.no_grad(), seeded(task.seed_for("score-factor")):
                self._factors[task.key] = factor_of(model(images))
        return self._factors[task.key]

    def purifier(self, purifier: Purifier, dataset: DatasetRef) -> PurifierModule:
        """A purifier ready for use, with the weights of its trainings."""

        def load() -> nn.Module:
            parts = []
            for part in purifier.parts:
                defense = self.new_defense(part.defense, dataset)
                if part.training is not None:
                    self._weighted(defense, part.training)
                parts.append(defense)
            return PurifierModule(parts).to(self.device)

        module = self._models.get(f"{purifier.key}{digest(dataset.content)}", load)
        assert isinstance(module, PurifierModule)
        return module.eval()

    def _given(self, task: TrainTarget) -> nn.Module:
        known, said = self.meta(task)["weights"], self.tensors(task)["reference_logits"]
        model = self.given_target(task)
        if weights_digest(model) != known or not are_the_same(answers(model, self.device), said.cpu()):
            raise PluginError(f"{task.label} has other weights than when its results in the store were made")
        return model

    def _weighted(self, module: Any, task: Training) -> Any:
        module.load_state_dict(self.tensors(task))
        return module.to(self.device)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@contextmanager
def _refusals() -> Iterator[None]:
    """Plugins refuse images of a shape or a number of classes with a ValueError."""
    try:
        yield
    except ValueError as error:
        raise PluginError(str(error)) from error


class Stopwatch:
    """Seconds of a piece of work, with the device's queue emptied before each reading."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> Stopwatch:
        self._begin = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._begin

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
