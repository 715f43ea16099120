"""Classifiers, purifiers and pipelines as plain modules, from the weights of the zoo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from benchmark.datasets.contract import Dataset
from benchmark.errors import UserError, nearest
from benchmark.noise import StreamNoise
from benchmark.outside import Pipeline
from benchmark.plugin import Config
from benchmark.purifier import PurifierModule
from benchmark.registry import Entry, Registry, default_registry
from benchmark.zoo_index import Record
from benchmark.zoo_layers import StoreLayer, ZooLayer, find_layers
from defenses.contract import Defense

Layer = ZooLayer | StoreLayer
Found = tuple[Record, Layer]


class Classifier(nn.Module):
    """A trained classifier: images (B, C, H, W), float in [0, 1], to logits (B, classes).

    Attributes:
        model: The target plugin.
        about: What it is and what it was trained on.
    """

    def __init__(self, model: nn.Module, about: str) -> None:
        super().__init__()
        self.model = model
        self.about = about
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return self.about


class LoadedPurifier(PurifierModule):
    """A purifier: images (B, C, H, W), float in [0, 1], to images of the same shape.

    Gradients flow through it as far as the defense lets them. A random defense draws new noise at each call.

    Attributes:
        parts: The defense plugin, alone in a list.
        about: What it is and what it was trained on.
    """

    def __init__(self, defense: Defense[Any], about: str) -> None:
        super().__init__([defense])
        self.about = about
        self.noise = StreamNoise(0)

    def forward(self, x: Tensor) -> Tensor:
        self.forget()
        return super().forward(x)

    def extra_repr(self) -> str:
        return self.about


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
    """As `benchmark.load_target`."""
    registry = default_registry([Path(plugin) for plugin in plugins])
    entry = registry.get("target", name)
    kinds = ("train-target",)
    return _classifier(*_find(entry, kinds, dataset, seed, role, key, zoo, parameters), registry)


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
    """As `benchmark.load_defense`."""
    registry = default_registry([Path(plugin) for plugin in plugins])
    entry = registry.get("defense", name)
    kind: Any = entry.load()
    if not kind.trainable:
        return _untrained(entry, dataset, registry, data, parameters)
    # Parameters that act after training are set; weights depend on the others, which choose among them.
    after = kind.config_type().fields_marked("infer")
    chosen = {field: value for field, value in parameters.items() if field not in after}
    record, layer = _find(entry, ("train-defense",), dataset, seed, "defense", key, zoo, chosen)
    set_after = {field: value for field, value in parameters.items() if field in after}
    return _purifier(record, layer, registry, set_after)


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
    """As `benchmark.load_pipeline`."""
    if isinstance(defense, str):
        defense = load_defense(defense, dataset, seed=seed, zoo=zoo, plugins=plugins)
    if isinstance(target, str):
        target = load_target(target, dataset, seed=target_seed, zoo=zoo, plugins=plugins)
    return Pipeline(target, defense).eval()


def rebuild(record: Record, layer: Layer, registry: Registry) -> nn.Module:
    """The module of a target or a defense with its weights.

    Raises:
        UserError: The plugin is missing or has changed, or the weights are damaged.
    """
    if record.plugin_kind == "defense":
        return _purifier(record, layer, registry, {})
    return _classifier(record, layer, registry)


def _classifier(record: Record, layer: Layer, registry: Registry) -> Classifier:
    return Classifier(_weighted(record, layer, registry, {}), f"{record.describe()}; {layer.title}")


def _purifier(
    record: Record, layer: Layer, registry: Registry, parameters: Mapping[str, Any]
) -> LoadedPurifier:
    module = _weighted(record, layer, registry, parameters)
    assert isinstance(module, Defense)
    return LoadedPurifier(module, f"{record.describe()}; {layer.title}")


def _weighted(record: Record, layer: Layer, registry: Registry, parameters: Mapping[str, Any]) -> nn.Module:
    entry = registry.get(record.plugin_kind, record.label)
    kind: Any = entry.load()
    if record.needs_files:
        raise UserError(
            f"{record} needs the files of {', '.join(record.needs_files)}, which no zoo has",
            hint="run a grid that names them; the store takes the weights from the zoo",
        )
    if (problem := _other_plugin(entry, record)) is not None:
        raise UserError(f"{record}: {problem}")
    try:
        config = kind.config_type()(**{**record.parameters, **parameters})
        module: nn.Module = kind(config, record.image_shape, record.classes)
        module.load_state_dict(layer.read(record))
    except (ValidationError, ValueError, RuntimeError) as error:
        message = str(error).strip().replace("\n", " ")
        raise UserError(f"{record} cannot be rebuilt: {message}") from error
    return module


def _other_plugin(entry: Entry, record: Record) -> str | None:
    """How the plugin differs from the one that was trained; None if it is the same."""
    trained, installed = record.plugin.get("version"), entry.load().version
    if trained != installed:
        return f"its weights are of version {trained} of the plugin, but version {installed} is installed"
    if record.plugin.get("code") != entry.code():
        return f"its weights are of another {entry.kind} of that name"
    return None


def _find(
    entry: Entry,
    kinds: Sequence[str],
    dataset: str,
    seed: int,
    role: str,
    key: str | None,
    zoo: str | None,
    parameters: Mapping[str, Any],
) -> Found:
    """The one training that is asked for.

    Raises:
        UserError: There is none, or several; says what there is.
    """
    warnings: list[str] = []
    layers: list[Layer] = list(find_layers(zoo, warnings.append))
    layers += [StoreLayer(warnings.append)] if zoo is None else []
    named = list(_named(layers, entry, kinds))
    known = [str(record) for record, _ in named]
    fitting = [
        (record, layer)
        for record, layer in named
        if dataset in (record.dataset, record.trained_on.name)
        and (record.key.startswith(key) if key else (record.seed == seed and record.role == role))
        and all(record.parameters.get(name) == value for name, value in parameters.items())
    ]
    if not fitting:
        asked = (
            f"key {key}"
            if key
            else ", ".join([f"seed {seed}", *(f"{k}={v!r}" for k, v in parameters.items())])
        )
        hints = [*warnings, *([f"known: {text}" for text in known] or ["no zoo has any weights of it"])]
        hint = "\n    ".join(
            [*hints, f"train it: a grid with {entry.kind} {entry.name} and {dataset}, `bench run`"]
        )
        raise UserError(f"no weights of {entry.kind} {entry.name} for {dataset} ({asked})", hint=hint)
    for preferred in (
        [found for found in fitting if found[1].name == "package"],
        [found for found in fitting if not set(found[0].plugin.get("config", {})) - {"preset"}],
        fitting,
    ):
        if len(preferred) == 1:
            return preferred[0]
    listed = [f"key={record.key[:12]!r}: {record.describe()}; {layer.title}" for record, layer in fitting]
    raise UserError(
        f"{len(fitting)} trainings of {entry.kind} {entry.name} for {dataset}, seed {seed}: choose one by a "
        "parameter or by its key",
        hint="\n    ".join(listed),
    )


def _named(layers: Sequence[Layer], entry: Entry, kinds: Sequence[str]) -> Iterator[Found]:
    """The trainings of a plugin, each in the first layer that has it."""
    seen = set()
    for layer in layers:
        for record in (record for kind in kinds for record in layer.records_of(kind, entry.name)):
            if record.key not in seen:
                seen.add(record.key)
                yield record, layer


def _untrained(
    entry: Entry,
    dataset: str,
    registry: Registry,
    data: str | Path | None,
    parameters: Mapping[str, Any],
) -> LoadedPurifier:
    kind: Any = entry.load()
    shape, classes = _size_of(registry.get("dataset", dataset), data)
    fields = kind.config_type().model_fields
    unknown = next((name for name in parameters if name not in fields), None)
    if unknown is not None:
        raise UserError(f"defense {entry.name} has no parameter {unknown!r}", hint=nearest(unknown, fields))
    try:
        config: Config = kind.config_type()(**parameters).on(dataset)
        defense: Defense[Any] = kind(config, shape, classes)
    except ValueError as error:  # pydantic's too
        message = str(error).strip().replace("\n", " ")
        raise UserError(f"defense {entry.name} on {dataset}: {message}") from error
    settings = "".join(f", {name}={value}" for name, value in config.model_dump(mode="json").items())
    return LoadedPurifier(defense, f"{entry.name} for {dataset}, not trained{settings}")


def _size_of(entry: Entry, data: str | Path | None) -> tuple[tuple[int, int, int], int]:
    """Image shape and number of classes: stated by the data set, or read from its files."""
    kind: Any = entry.load()
    if not (hasattr(kind, "image_shape") and hasattr(kind, "class_names")):
        from benchmark.runs import default_data

        try:
            opened: Dataset[Any] = kind(kind.config_type()(), Path(data or default_data()))
        except ValidationError as error:
            raise UserError(
                f"dataset {entry.name} has parameters that say where its images are",
                hint="make the defense itself: its class takes a configuration, an image shape and a number",
            ) from error
        opened.prepare()
        kind = opened
    return tuple(kind.image_shape), len(kind.class_names)
