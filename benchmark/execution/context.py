"""The settings of a run, and the data, models and stored results that its tasks use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api.attack import Attack
from benchmark.api.dataset import Dataset, Splits, TrainingData
from benchmark.api.defense import Defense
from benchmark.api.target import PretrainedTarget, Target
from benchmark.api.training import weights_digest
from benchmark.errors import PluginError, UserError
from benchmark.execution.lru_cache import LRUCache
from benchmark.execution.pretrained import reference_logits, same_logits
from benchmark.execution.provenance import Difference, Provenance, Reuse
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.score_scale import scale_for, scaling_images
from benchmark.execution.seeding import seeded
from benchmark.files.digests import digest_of_file, linked
from benchmark.plan.dataset_access import own_places, places_of, watched, watched_splits
from benchmark.plan.specs import DatasetSpec, PluginSpec
from benchmark.plan.tasks import Craft, PurifierSpec, Shard, Task, TrainAttack, TrainDefense, TrainTarget
from benchmark.plugins.opened_files import UsedPlugins, merge_opened, record_use, watching
from benchmark.plugins.plugin import Resources
from benchmark.plugins.registry import Registry
from benchmark.plugins.trust import NO_TRUST, Trust
from benchmark.storage.keys import digest
from benchmark.storage.store import Address, Store

Training = TrainTarget | TrainDefense | TrainAttack
OnTraining = Callable[[Task, int, int, Mapping[str, float]], None]


class LostResultError(Exception):
    """A stored result is lost or damaged; see `dispatch.recompute_lost`."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"the result of {address(task)} cannot be read")
        self.task = task


def address(task: Task) -> Address:
    """Where the store keeps the result of a task."""
    return Address(task.kind, task.label, task.key)


@dataclass(eq=False)
class ExecutionContext:
    """Holds the settings of a run, and gives its tasks their data, models and stored results.

    Data sets, models and results are loaded once and cached. Methods that read a stored result raise
    `LostResultError` if the store lacks it or finds it damaged.

    Attributes:
        data: Root folder of the data sets.
        on_training: Called with the progress of trainings.
        provenance: The code and environment that new results are made with.
        budget: Forward plus backward passes per image that an attack may use on its surface.
        trusted: The files and packages whose code may run when a classifier is loaded.
        reuse: Which stored results the run uses.
        resources: What tasks need, by the name of a plugin or of a kind of task, if the grid says it.
    """

    registry: Registry
    store: Store
    data: Path
    device: torch.device
    on_training: OnTraining
    provenance: Provenance
    budget: float = float("inf")
    trusted: Trust = NO_TRUST
    reuse: Reuse = "any"
    resources: Mapping[str, Resources] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._datasets: LRUCache[Dataset[Any]] = LRUCache(4)
        self._splits: LRUCache[Splits] = LRUCache(4)
        self._models: LRUCache[nn.Module] = LRUCache(8)
        self._score_scales: dict[str, float] = {}
        self._results: LRUCache[dict[str, Tensor]] = LRUCache(
            256 * 2**20, lambda tensors: sum(tensor.nbytes for tensor in tensors.values())
        )
        self._logits: LRUCache[Tensor] = LRUCache(64 * 2**20, lambda logits: logits.nbytes)
        self._opened: dict[str, Mapping[str, list[str]]] = {}
        self._used = UsedPlugins()

    @property
    def allowance(self) -> str:
        """The budget in words."""
        return f"the grid's budget of {self.budget:.0f} passes per image"

    def plugin(self, kind: str, spec: PluginSpec) -> tuple[type[Any], Any]:
        """The class of a plugin and its typed configuration."""
        cls = self.registry.get(kind, spec.name).load()
        for name, declared in spec.files.items():
            if digest_of_file(declared.path) != declared.sha256:
                raise PluginError(f"{kind} {spec.name}: the file of {name} has changed since the run began")
        parameters = {**spec.config, **{k: str(linked(f.path, f.sha256)) for k, f in spec.files.items()}}
        own = [file.path for file in spec.files.values()]
        if kind == "dataset":
            own += places_of(parameters, self.data)
        with watching(kind, cls, own=own):  # validators and defaults may open files, too
            return cls, cls.config_type()(**parameters)

    def dataset(self, spec: DatasetSpec) -> Dataset[Any]:
        """A prepared data set, for its image shape and class names."""

        def load() -> Dataset[Any]:
            cls, config = self.plugin("dataset", spec)
            with watching("dataset", cls, config, own=tuple(own_places(config, self.data))):
                prepared: Dataset[Any] = cls(config, self.data)
                prepared.prepare()
            return prepared

        with watched(dataset := self._datasets.get(digest(spec.content), load)):
            return dataset  # watched on each call: a task depends on it even if another task loaded it

    def splits(self, spec: DatasetSpec) -> Splits:
        """The images of a data set."""
        dataset = self.dataset(spec)
        return self._splits.get(digest(spec.content), lambda: watched_splits(dataset))

    def training_data(self, spec: DatasetSpec) -> TrainingData:
        """The images that plugins train on; never the test images."""
        splits, dataset = self.splits(spec), self.dataset(spec)
        return TrainingData(
            splits.train, splits.validation, dataset.image_shape, len(dataset.class_names), self.device
        )

    def clean(self, shard: Shard) -> tuple[Tensor, Tensor]:
        """Test images and labels of a shard, on the device."""
        test = self.splits(shard.dataset).test
        indices = torch.arange(shard.start, shard.stop)
        return test.take(indices).to(self.device), test.labels[indices].to(self.device)

    def images(self, source: Task | None, shard: Shard) -> Tensor:
        """The adversarial images of a task, or the clean images if there is no task; on the device."""
        if source is None:
            return self.clean(shard)[0]
        return self.tensors(source)["images"].clone().to(self.device)

    def tensors(self, task: Task) -> dict[str, Tensor]:
        """The stored result of a task."""
        return self._results.get(task.key, lambda: self._read(task, self.store.get_tensors))

    def table(self, task: Task) -> Any:
        """The stored pyarrow table of a task."""
        return self._read(task, self.store.get_table)

    def meta(self, task: Task) -> dict[str, Any]:
        """The metadata of a stored result."""
        return self._read(task, self.store.meta)  # type: ignore[no-any-return]

    def put_tensors(self, task: Task, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Store the result of a task with its inputs and provenance."""
        self.store.put_tensors(address(task), tensors, self._with_provenance(task, meta))

    def put_table(self, task: Task, table: Any, meta: Mapping[str, Any]) -> None:
        """Store a pyarrow table as the result of a task, with its inputs and provenance."""
        self.store.put_table(address(task), table, self._with_provenance(task, meta))

    def _with_provenance(self, task: Task, meta: Mapping[str, Any]) -> dict[str, Any]:
        opened = merge_opened([self._used.opened, *(self.opened(needed) for needed in task.needs())])
        files = {"opened": opened} if opened else {}
        return {**meta, **files, "task": task.content(), "made": self.provenance.of(task)}

    def difference(self, task: Task) -> Difference | None:
        """How the provenance of a stored result differs from the current one; None if there is no result."""
        meta = self.store.meta(address(task))
        return None if meta is None else self.provenance.difference(task, meta.get("made") or {})

    def opened(self, task: Task) -> Mapping[str, list[str]]:
        """The files, programs and libraries that plugins used for a stored result and all that it needs.

        By plugin title. Files that parameters name do not count. Empty if there is no stored result.
        """
        if task.key not in self._opened:
            meta = self.store.meta(address(task))
            if meta is None:  # no task of the run needs this result any more
                return {}
            self._opened[task.key] = dict(meta.get("opened", {}))
        return self._opened[task.key]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Store with each result of the block the undeclared files that plugins opened for it."""
        with record_use() as used:
            outer, self._used = self._used, used
            try:
                yield
            finally:
                self._used = outer

    def _read(self, task: Task, get: Callable[[Address], Any]) -> Any:
        if (stored := get(address(task))) is None:
            raise LostResultError(task)
        return stored

    def new_target(self, task: TrainTarget) -> Target[Any]:
        """An untrained target, or a pretrained one before its weights are loaded."""
        return self._new_model("target", task.target, task.dataset)  # type: ignore[no-any-return]

    def new_defense(self, spec: PluginSpec, dataset: DatasetSpec) -> Defense[Any]:
        return self._new_model("defense", spec, dataset)  # type: ignore[no-any-return]

    def _new_model(self, kind: str, spec: PluginSpec, dataset: DatasetSpec) -> Any:
        cls, config = self.plugin(kind, spec)
        data = self.dataset(dataset)
        with _shape_errors(), watching(kind, cls, config):
            return cls(config, data.image_shape, len(data.class_names))

    def new_attack(self, spec: PluginSpec, dataset: DatasetSpec) -> Attack[Any]:
        """An attack, with untrained layers if it is trainable."""
        cls, config = self.plugin("attack", spec)
        data = self.dataset(dataset)
        with watching("attack", cls, config):
            attack: Attack[Any] = cls(config)
        if attack.trainable:
            with _shape_errors(), watching("attack", attack):
                attack.build(data.image_shape, len(data.class_names))
        return attack

    def attack(self, craft: Craft) -> Attack[Any]:
        """An attack ready for use, with its trained weights if it is trainable."""
        if craft.training is None:
            return self.new_attack(craft.attack, craft.shard.dataset)
        return self.trained_attack(craft.training)

    def trained_attack(self, task: TrainAttack) -> Attack[Any]:
        attack = self.new_attack(task.attack, task.dataset)
        return self._load_weights(attack, task).eval()  # type: ignore[no-any-return]

    def target(self, task: TrainTarget) -> nn.Module:
        """A trained classifier, frozen, in evaluation mode."""

        def load() -> nn.Module:
            if not task.target.trainable:
                return self._same_pretrained_target(task)
            model: nn.Module = self._load_weights(self.new_target(task), task)
            return model.requires_grad_(False)

        # eval() on each call, because an earlier user of the module may have changed its mode
        return self._models.get(task.key, load).eval()

    def logits(self, target: TrainTarget, source: Task | None, shard: Shard, images: Tensor) -> Tensor:
        """The logits of a target on `images`: those that the task `source` stored, or the clean images.

        They are computed once, because the scores of many cells share them. Call it without gradients.
        """
        key = f"{target.key}{digest(shard.content) if source is None else source.key}"
        return self._logits.get(key, lambda: self.target(target)(images))

    def pretrained_target(self, task: TrainTarget) -> PretrainedTarget[Any]:
        """A target that comes with its weights, in evaluation mode, if it still matches the task's key."""
        model = self.new_target(task)
        assert isinstance(model, PretrainedTarget)
        with watching("target", model):
            try:
                content = model.rests_on(model.config, self.trusted)
            except UserError as error:
                raise PluginError(str(error)) from error
            if content != task.target.rests_on:
                raise PluginError(f"{model.origin} has changed since the run began")
            with seeded(task.seed_for("init")):  # a factory may initialise some weights at random
                model.load(self.trusted)
        return model.to(self.device).requires_grad_(False).eval()

    def _same_pretrained_target(self, task: TrainTarget) -> nn.Module:
        """The pretrained target, if its weights and logits are still those that the store records."""
        weights, logits = self.meta(task)["weights"], self.tensors(task)["reference_logits"]
        model = self.pretrained_target(task)
        current = reference_logits(model, self.device)
        if weights_digest(model) != weights or not same_logits(current, logits.cpu()):
            raise PluginError(f"{task.label} has other weights than when its results in the store were made")
        return model

    def score_scale(self, task: TrainTarget) -> float:
        """The factor that multiplies the scores of a classifier on every surface of every attack.

        It is 1 unless the scores are so small or so large that attacks would find less (`scale_for`).
        """
        if task.key not in self._score_scales:
            model = self.target(task)
            images = scaling_images(self.splits(task.dataset)).to(self.device)
            with torch.no_grad(), seeded(task.seed_for("score-factor")):
                self._score_scales[task.key] = scale_for(model(images))
        return self._score_scales[task.key]

    def purifier(self, purifier: PurifierSpec, dataset: DatasetSpec) -> PurifierModule:
        """A purifier ready for use, with its trained weights."""

        def load() -> nn.Module:
            parts = []
            for part in purifier.parts:
                defense = self.new_defense(part.defense, dataset)
                if part.training is not None:
                    self._load_weights(defense, part.training)
                parts.append(defense)
            return PurifierModule(parts).to(self.device)

        module = self._models.get(f"{purifier.key}{digest(dataset.content)}", load)
        assert isinstance(module, PurifierModule)
        return module.eval()

    def _load_weights(self, module: Any, task: Training) -> Any:
        module.load_state_dict(self.tensors(task))
        return module.to(self.device)


@contextmanager
def _shape_errors() -> Iterator[None]:
    """Turn `ValueError` into `PluginError`: plugins raise it for image shapes that they do not support."""
    try:
        yield
    except ValueError as error:
        raise PluginError(str(error)) from error
