"""The base class of all plugins, and their typed configurations."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["linf", "l2", "l0"]


class Config(BaseModel):
    """The parameters of a plugin: typed, bounded and immutable. Unknown keys are refused.

    How to declare a field:
        train: Trained weights depend on it.
        infer: It only takes effect after training.
        param: A plugin without training has only such fields.
        sweep: As `param`; a grid may give a list.
        unkeyed: It is not part of result keys (data sets only).
        file: It names a file; the content of the file is part of the keys.
    Bounds are those of pydantic: `ge`, `gt`, `le`, `lt`.

    The key of a result contains the parameters that differ from the defaults of the class. So a new field
    with a default changes no key, but a changed default needs a new `version` of the plugin.

    Attributes:
        presets: For each preset, the values that it puts in place of the defaults; needs a field `preset`.
        per_dataset: For each data set, the values that are the defaults on it (defenses only). A preset
            overrides them, and a value that the user writes overrides both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    per_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, parameters: Any) -> Any:
        if not cls.presets or not isinstance(parameters, Mapping):
            return parameters
        preset = parameters.get("preset", cls.model_fields["preset"].default)
        return {**(cls.presets.get(preset, {}) if isinstance(preset, str) else {}), **parameters}

    def on(self, dataset: str) -> Self:
        """This configuration with the defaults for that data set.

        Raises:
            pydantic.ValidationError: These defaults conflict with values that the user wrote.
        """
        written = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**self.per_dataset.get(dataset, {}), **written})

    def files(self) -> dict[str, Path]:
        """The files that fields declared with `file` name, by field; without those that are None."""
        values = {name: getattr(self, name) for name in sorted(self._fields_with("file", True))}
        return {name: Path(value) for name, value in values.items() if value is not None}

    @classmethod
    def files_in(cls, parameters: Mapping[str, Any]) -> tuple[Path, ...]:
        """As `files`, for parameters that are not validated yet."""
        values = (parameters.get(name) for name in cls._fields_with("file", True))
        return tuple(Path(value) for value in values if isinstance(value, str))

    def located(self, folder: Path) -> Self:
        """This configuration with absolute file paths; relative ones are resolved against `folder`."""
        return self.model_copy(update={name: str(folder / path) for name, path in self.files().items()})

    @classmethod
    def fields_marked(cls, mark: str) -> frozenset[str]:
        """Names of the fields declared with a marker: "train", "infer", "sweep" or "unkeyed"."""
        return frozenset(cls._fields_with("mark", mark))

    @classmethod
    def _fields_with(cls, marker: str, value: Any) -> list[str]:
        """Names of the fields with a value that `train`, `file` or another function below sets."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return [
            name for name, extra in extras.items() if isinstance(extra, dict) and extra.get(marker) == value
        ]


def param(default: Any = ..., **bounds: Any) -> Any:
    """A plain field: every result of the plugin depends on it."""
    return Field(default, **bounds)


def train(default: Any, **bounds: Any) -> Any:
    """A field that trained weights depend on."""
    return Field(default, json_schema_extra={"mark": "train"}, **bounds)


def infer(default: Any, **bounds: Any) -> Any:
    """A field that takes effect after training only: if it changes, nothing is trained again."""
    return Field(default, json_schema_extra={"mark": "infer"}, **bounds)


def sweep(default: Any = ..., **bounds: Any) -> Any:
    """A field that a grid may give as a list: one cell for each member."""
    return Field(default, json_schema_extra={"mark": "sweep"}, **bounds)


def unkeyed(default: Any = ..., **bounds: Any) -> Any:
    """A field of a data set that does not change its images, such as their place; not part of result keys."""
    return Field(default, json_schema_extra={"mark": "unkeyed"}, **bounds)


FilePath = str
"""The type of a parameter that names a file, declared with `file(...)`."""


def file(default: Any = ..., *, trained: bool = True) -> Any:
    """A field that names a file, typed `FilePath` or, if `default` is None, `FilePath | None`.

    A grid gives the path relative to the grid's own file. The plugin gets an absolute path. Results depend
    on the content of the file, not on its path. With `trained=False` it only takes effect after training.
    """
    return Field(default, json_schema_extra={"mark": "file" if trained else "infer", "file": True})


class Resources(Config):
    """What one task of a plugin needs while it runs. It limits how many tasks run at once.

    Attributes:
        memory: Main memory in GiB.
        gpu: Share of a GPU.
    """

    memory: float = param(1.0, gt=0)
    gpu: float = param(1.0, gt=0, le=1)


ConfigT = TypeVar("ConfigT", bound=Config)

Reporter = Callable[[int, int, Mapping[str, float]], None]
"""Called with (steps done, total steps, values such as losses)."""


class Checkpoints(Protocol):
    """Stores the state of a training, so that it can be resumed after an interruption."""

    def load(self) -> dict[str, Tensor] | None: ...

    def save(self, state: Mapping[str, Tensor]) -> None: ...


class NoCheckpoints:
    """Stores nothing."""

    def load(self) -> None: ...

    def save(self, state: Mapping[str, Tensor]) -> None: ...


class Plugin(Generic[ConfigT]):
    """Base class of every kind of plugin.

    Attributes:
        name: Set by the decorator.
        version: Increased when the plugin's results change for the same parameters. Only built-in plugins
            need it: the keys of other plugins contain a fingerprint of their code.
        resources: What each task that runs the plugin needs. A grid may say otherwise.
        config: The typed parameters.
        reporter: Receives the calls of `report`; see `training_with`.
        checkpoints: `benchmark.api.training.Loop` loads and saves the state with it; see `training_with`.
        step_limit: Maximum number of training steps, for checks that only need to see that training runs.
        loops_begun: Number of training loops started so far.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources()
    reporter: Reporter = staticmethod(lambda done, total, values: None)
    checkpoints: Checkpoints = NoCheckpoints()
    step_limit: int | None = None
    loops_begun: int = 0

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def config_type(cls) -> type[Config]:
        """The configuration class that the plugin is parametrised with: `MyConfig` of `Defense[MyConfig]`."""
        generics = (generic for base in cls.__mro__ for generic in getattr(base, "__orig_bases__", ()))
        arguments = (argument for generic in generics for argument in typing.get_args(generic))
        found = (
            argument for argument in arguments if isinstance(argument, type) and issubclass(argument, Config)
        )
        return next(found, Config)

    @contextmanager
    def training_with(self, reporter: Reporter, checkpoints: Checkpoints | None = None) -> Iterator[None]:
        """Train in the block: reports go to `reporter`, and the state to `checkpoints` if given."""
        earlier = self.reporter, self.checkpoints
        self.reporter, self.checkpoints = reporter, checkpoints or NoCheckpoints()
        try:
            yield
        finally:
            self.reporter, self.checkpoints = earlier

    def report(self, done: int, total: int, **figures: float) -> None:
        """Report the steps done, the total steps, and losses or rates to the harness.

        The training fails, and no weights are stored, if a value is not finite.
        """
        self.reporter(done, total, figures)


PluginT = TypeVar("PluginT", bound=type[Plugin[Any]])


def named(kind: str, base: type[Plugin[Any]], name: str) -> Callable[[PluginT], PluginT]:
    """The decorator behind `@defense("name")` and the other kinds: checks the base class, sets the name."""

    def decorate(cls: PluginT) -> PluginT:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(f"@{kind}({name!r}) needs a subclass of {base.__name__}, got {cls!r}")
        cls.name = name
        return cls

    return decorate
