"""Loads classifiers, purifiers and pipelines with the weights of the zoo as plain modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from benchmark.api.defense import Defense
from benchmark.api.noise import StreamNoise
from benchmark.errors import UserError, nearest
from benchmark.execution.purifier import PurifierModule
from benchmark.plugins.registry import Entry, Registry, default_registry
from benchmark.results.external_images import Pipeline
from benchmark.storage.store import default_data
from benchmark.storage.zoo_index import ZooRecord
from benchmark.storage.zoo_layers import StoreLayer, ZooLayer, find_layers

Layer = ZooLayer | StoreLayer


class Classifier(nn.Module):
    """A trained classifier: images (B, C, H, W), float in [0, 1], to logits (B, classes).

    Attributes:
        model: The target plugin.
        description: What it was trained on, and its metrics.
    """

    def __init__(self, model: nn.Module, description: str) -> None:
        super().__init__()
        self.model = model
        self.description = description
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return self.description


class LoadedPurifier(PurifierModule):
    """A purifier: images (B, C, H, W), float in [0, 1], to images of the same shape and range.

    Gradients flow through it as far as the defense allows. A random defense draws new noise at each call.

    Attributes:
        parts: A list of the defense plugin alone.
        description: What it was trained on, and its metrics.
    """

    def __init__(self, defense: Defense[Any], description: str) -> None:
        super().__init__([defense])
        self.description = description
        self.noise = StreamNoise(0)

    def forward(self, x: Tensor) -> Tensor:
        self.forget()
        return super().forward(x)

    def extra_repr(self) -> str:
        return self.description


@dataclass(frozen=True)
class _Training:
    """A training and the layer that has its weights."""

    record: ZooRecord
    layer: Layer

    def __str__(self) -> str:
        return f"{self.record.describe()}; {self.layer.title}"


def load_target(
    name: str,
    dataset: str,
    *,
    seed: int = 0,
    role: str = "target",
    key: str | None = None,
    zoo: str | None = None,
    plugins: Sequence[str | Path] = (),
    **parameters: Any,
) -> Classifier:
    """Load a classifier with weights from the zoo, in evaluation mode, with frozen weights.

    It maps images (B, C, H, W), float in [0, 1], to logits (B, classes); normalisation is included. It was
    trained on the training images of `dataset` without the validation and test images; its validation error
    is in `print(classifier)`.

        >>> classifier = benchmark.load_target("mnist-c", "digits")
        >>> classifier(images).argmax(dim=1)

    Needs no images of the data set, and no network unless `BENCH_ZOO` is a URL.

    Args:
        name: As in `bench list targets`.
        dataset: The data set that it was trained on, as in `bench list datasets`.
        seed: The seed of its training.
        role: `target`, or `source` for a classifier that defenses are trained with.
        key: The key of the training, or a prefix, if several trainings fit; replaces `seed` and `role`.
        zoo: Where to search: `package`, `checkout`, `BENCH_ZOO`, a folder or a URL. Default: all layers.
        plugins: Files that declare plugins, as in `bench run --plugin`.
        **parameters: Parameters of its training, to select one of several, e.g. `epochs=5`.

    Raises:
        benchmark.errors.UserError: There is no such target, no weights for that data set, or several.
    """
    registry = default_registry([Path(plugin) for plugin in plugins])
    entry = registry.get("target", name)
    training = _find_training(entry, dataset, seed, role, key, zoo, parameters)
    return Classifier(_build(training, registry, {}), str(training))


def load_defense(
    name: str,
    dataset: str,
    *,
    seed: int = 0,
    key: str | None = None,
    zoo: str | None = None,
    data: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    **parameters: Any,
) -> LoadedPurifier:
    """Load a purifier, in evaluation mode; a trained one has frozen weights from the zoo.

    It maps images (B, C, H, W), float in [0, 1], to images of the same shape and range. Gradients flow
    through it as far as the defense allows; a random defense draws new noise at each call. A trained defense
    has seen the training images of `dataset`, without the validation and test images, and a source
    classifier. `print(purify)` names the classifier and the clean error that the defense adds to it on the
    validation images. An untrained defense needs no weights and is made for the image shape of `dataset`.

        >>> purify = benchmark.load_defense("ape-gan", "digits", seed=0)
        >>> classifier(purify(images)).argmax(dim=1)
        >>> benchmark.load_defense("jpeg", "digits", quality=50)

    Needs no images of the data set, and no network unless `BENCH_ZOO` is a URL.

    Args:
        name: As in `bench list defenses`.
        dataset: The data set that it was trained on, as in `bench list datasets`.
        seed: The seed of its training.
        key: The key of the training, or a prefix, if several trainings fit; replaces `seed`.
        zoo: Where to search: `package`, `checkout`, `BENCH_ZOO`, a folder or a URL. Default: all layers.
        data: Root folder of the data sets; needed for an untrained defense if the data set has no fixed size.
        plugins: Files that declare plugins, as in `bench run --plugin`.
        **parameters: Parameters of the defense. Those that act after training are set, and all of them for an
            untrained defense. Those that weights depend on, such as `preset`, select among trainings.

    Raises:
        benchmark.errors.UserError: There is no such defense, no weights for that data set, or several.
    """
    registry = default_registry([Path(plugin) for plugin in plugins])
    entry = registry.get("defense", name)
    plugin: Any = entry.load()
    if not plugin.trainable:
        return _untrained(entry, dataset, registry, data, parameters)
    settable = plugin.config_type().fields_marked("infer")
    of_training = {field: value for field, value in parameters.items() if field not in settable}
    training = _find_training(entry, dataset, seed, "defense", key, zoo, of_training)
    settings = {field: value for field, value in parameters.items() if field in settable}
    return LoadedPurifier(_build(training, registry, settings), str(training))


def load_pipeline(
    defense: str | PurifierModule,
    target: str | nn.Module,
    dataset: str,
    *,
    seed: int = 0,
    target_seed: int = 0,
    zoo: str | None = None,
    plugins: Sequence[str | Path] = (),
) -> Pipeline:
    """Load a classifier behind a purifier: a module from images (B, C, H, W), float in [0, 1], to logits.

        >>> pipeline = benchmark.load_pipeline("ape-gan", "mnist-c", "digits")
        >>> pipeline(images).argmax(dim=1)

    Args:
        defense: The name of a defense, or a purifier from `load_defense`.
        target: The name of a target, or any module from images to logits.
        dataset: The data set that both were trained on.
        seed: The seed of the training of the defense.
        target_seed: The seed of the training of the target.
        zoo: Where to search: `package`, `checkout`, `BENCH_ZOO`, a folder or a URL. Default: all layers.
        plugins: Files that declare plugins, as in `bench run --plugin`.

    Raises:
        benchmark.errors.UserError: As `load_defense` and `load_target`.
    """
    if isinstance(defense, str):
        defense = load_defense(defense, dataset, seed=seed, zoo=zoo, plugins=plugins)
    if isinstance(target, str):
        target = load_target(target, dataset, seed=target_seed, zoo=zoo, plugins=plugins)
    return Pipeline(target, defense).eval()


def rebuild(record: ZooRecord, layer: Layer, registry: Registry) -> nn.Module:
    """The module of a target or a defense with its weights, if its plugin is here and has not changed."""
    training = _Training(record, layer)
    wrapper = LoadedPurifier if record.plugin_kind == "defense" else Classifier
    return wrapper(_build(training, registry, {}), str(training))


def _build(training: _Training, registry: Registry, settings: Mapping[str, Any]) -> Any:
    record = training.record
    entry = registry.get(record.plugin_kind, record.label)
    plugin: Any = entry.load()
    if record.needs_files:
        raise UserError(
            f"{record} needs the files of {', '.join(record.needs_files)}, which a zoo cannot provide",
            hint="run a grid that names them; the store takes the weights from the zoo",
        )
    if (difference := _plugin_difference(entry, record)) is not None:
        raise UserError(f"{record}: {difference}")
    try:
        config = plugin.config_type()(**{**record.parameters, **settings})
        module = plugin(config, record.image_shape, record.classes)
        module.load_state_dict(training.layer.read(record))
    except (ValueError, RuntimeError) as error:  # a ValidationError of pydantic is a ValueError
        raise UserError(f"{record} cannot be rebuilt: {_one_line(error)}") from error
    return module


def _plugin_difference(entry: Entry, record: ZooRecord) -> str | None:
    """The reason why the installed plugin cannot take these weights, as text; None if it can.

    The version must be the same, and the code too unless the plugin is built in.
    """
    trained, installed = record.plugin.get("version"), entry.load().version
    if trained != installed:
        return f"its weights are of version {trained} of the plugin, but version {installed} is installed"
    if record.plugin.get("code") != entry.code():
        return f"its weights are of another {entry.kind} of that name"
    return None


def _find_training(
    entry: Entry,
    dataset: str,
    seed: int,
    role: str,
    key: str | None,
    zoo: str | None,
    parameters: Mapping[str, Any],
) -> _Training:
    """The only fitting training, or the preferred one: shipped, else with default parameters."""
    warnings: list[str] = []
    layers: list[Layer] = list(find_layers(zoo, warnings.append))
    layers += [StoreLayer(warnings.append)] if zoo is None else []
    known = _trainings(layers, entry)
    fitting = [
        training
        for training in known
        if dataset in (training.record.dataset, training.record.trained_on.name)
        and _fits(training.record, seed, role, key)
        and all(training.record.parameters.get(name) == value for name, value in parameters.items())
    ]
    if not fitting:
        choice = [f"seed {seed}", *(f"{name}={value!r}" for name, value in parameters.items())]
        wanted = f"key {key}" if key else ", ".join(choice)
        hints = [f"known: {training.record}" for training in known] or ["no zoo has any weights of it"]
        hints += [f"train it: a grid with {entry.kind} {entry.name} and {dataset}, `bench run`"]
        message = f"no weights of {entry.kind} {entry.name} for {dataset} ({wanted})"
        raise UserError(message, hint="\n    ".join([*warnings, *hints]))
    shipped = [training for training in fitting if training.layer.name == "package"]
    default = [found for found in fitting if not set(found.record.plugin.get("config", {})) - {"preset"}]
    for candidates in (shipped, default, fitting):
        if len(candidates) == 1:
            return candidates[0]
    several = f"{len(fitting)} trainings of {entry.kind} {entry.name} for {dataset}, seed {seed}"
    hint = "\n    ".join(f"key={training.record.key[:12]!r}: {training}" for training in fitting)
    raise UserError(f"{several}: choose one by a parameter or by its key", hint=hint)


def _fits(record: ZooRecord, seed: int, role: str, key: str | None) -> bool:
    return record.key.startswith(key) if key else (record.seed, record.role) == (seed, role)


def _trainings(layers: Sequence[Layer], entry: Entry) -> Collection[_Training]:
    """The trainings of a target or a defense, each in the first layer that has it."""
    found: dict[str, _Training] = {}
    for layer in layers:
        for record in layer.records_of(f"train-{entry.kind}", entry.name):
            found.setdefault(record.key, _Training(record, layer))
    return found.values()


def _untrained(
    entry: Entry, dataset: str, registry: Registry, data: str | Path | None, parameters: Mapping[str, Any]
) -> LoadedPurifier:
    plugin: Any = entry.load()
    shape, classes = _image_shape_and_classes(registry.get("dataset", dataset), data)
    fields = plugin.config_type().model_fields
    for name in parameters:
        if name not in fields:
            raise UserError(f"defense {entry.name} has no parameter {name!r}", hint=nearest(name, fields))
    try:
        config = plugin.config_type()(**parameters).on(dataset)
        defense = plugin(config, shape, classes)
    except ValueError as error:  # a ValidationError of pydantic is a ValueError
        raise UserError(f"defense {entry.name} on {dataset}: {_one_line(error)}") from error
    settings = "".join(f", {name}={value}" for name, value in config.model_dump(mode="json").items())
    return LoadedPurifier(defense, f"{entry.name} for {dataset}, not trained{settings}")


def _image_shape_and_classes(entry: Entry, data: str | Path | None) -> tuple[tuple[int, int, int], int]:
    """Image shape and number of classes, declared by the data set or read from its files."""
    plugin: Any = entry.load()
    if not (hasattr(plugin, "image_shape") and hasattr(plugin, "class_names")):
        try:
            plugin = plugin(plugin.config_type()(), Path(data or default_data()))
        except ValidationError as error:
            hint = "construct the defense class from a config, an image shape and a number of classes"
            message = f"dataset {entry.name} has parameters that say where its images are"
            raise UserError(message, hint=hint) from error
        plugin.prepare()
    return tuple(plugin.image_shape), len(plugin.class_names)


def _one_line(error: Exception) -> str:
    return str(error).strip().replace("\n", " ")
