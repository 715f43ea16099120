"""What every kind of plugin shares: a name, a typed configuration, a report of its training."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from typing_extensions import Self

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["linf", "l2", "l0"]


class Config(BaseModel):
    """The parameters of a plugin: typed, bounded, immutable, and closed to unknown keys.

    Declare fields with `train(default, ...)` when trained weights depend on them and with
    `infer(default, ...)` when they only act afterwards; `param(...)` where nothing is trained;
    `sweep(...)` also allows a list in a grid; `apart(...)` leaves a field out of the keys of results (data
    sets only); `file(...)` names a file, whose content counts. Bounds are pydantic's: `ge`, `gt`, `le`, `lt`.

    Results are named by the parameters that differ from the defaults of the class. So a new field with a
    default changes no name, and a changed default is a new `version` of the plugin.

    Defaults may depend on more than the field:
        presets: Names of presets, each with the values that it puts in place of the defaults; needs a
            field `preset`.
        per_dataset: Names of data sets, each with the values that are the default on it (defenses only).

    What is written out beats both, and a preset beats the data set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    per_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, given: Any) -> Any:
        if not cls.presets or not isinstance(given, Mapping):
            return given
        chosen = given.get("preset", cls.model_fields["preset"].default)
        return {**(cls.presets.get(chosen, {}) if isinstance(chosen, str) else {}), **given}

    def on(self, dataset: str) -> Self:
        """This configuration with the defaults that the data set of that name asks for.

        Raises:
            pydantic.ValidationError: They do not go together with what was written out.
        """
        written = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**self.per_dataset.get(dataset, {}), **written})

    def files(self) -> dict[str, Path]:
        """The declared files that are given, by the field that names each."""
        fields = type(self).model_fields
        named = {name for name, field in fields.items() if _names_a_file(field)}
        return {name: Path(value) for name in sorted(named) if (value := getattr(self, name)) is not None}

    @classmethod
    def named_in(cls, given: Mapping[str, Any]) -> tuple[Path, ...]:
        """The declared files among parameters that are no configuration yet."""
        fields = cls.model_fields.items()
        values = (given.get(name) for name, field in fields if _names_a_file(field))
        return tuple(Path(value) for value in values if isinstance(value, str))

    def located(self, folder: Path) -> Self:
        """This configuration with absolute paths of its files; relative ones are seen from `folder`."""
        return self.model_copy(update={name: str(folder / path) for name, path in self.files().items()})

    @classmethod
    def fields_marked(cls, mark: str) -> frozenset[str]:
        """Names of the fields declared with the marker `mark` ("train", "infer" or "sweep")."""
        return frozenset(
            name
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("mark") == mark
        )


def _names_a_file(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("file"))


def param(default: Any = ..., **bounds: Any) -> Any:
    """A plain field: every result of the plugin depends on it."""
    return Field(default, **bounds)


def train(default: Any, **bounds: Any) -> Any:
    """A field that trained weights depend on."""
    return Field(default, json_schema_extra={"mark": "train"}, **bounds)


def infer(default: Any, **bounds: Any) -> Any:
    """A field that acts after training only: changing it retrains nothing."""
    return Field(default, json_schema_extra={"mark": "infer"}, **bounds)


def sweep(default: Any = ..., **bounds: Any) -> Any:
    """A field that a grid may give as a list: one cell for each member."""
    return Field(default, json_schema_extra={"mark": "sweep"}, **bounds)


def apart(default: Any = ..., **bounds: Any) -> Any:
    """A field of a data set that says where its images are, or what goes with them, and not what they are."""
    return Field(default, json_schema_extra={"mark": "apart"}, **bounds)


FilePath = str
"""The type of a parameter that names a file, declared with `file(...)`."""


def file(default: Any = ..., *, trained: bool = True) -> Any:
    """A field that names a file, typed `FilePath` or `FilePath | None`.

    A grid gives the path relative to the grid's own file. The plugin gets an absolute path. The content of
    the file counts for the results, and not its place.

    Args:
        default: None where the file may be left out.
        trained: Whether trained weights depend on the file; False where it only acts afterwards.
    """
    return Field(default, json_schema_extra={"mark": "file" if trained else "infer", "file": True})


ConfigT = TypeVar("ConfigT", bound=Config)

Reporter = Callable[[int, int, Mapping[str, float]], None]
"""Called with (steps done, steps in all, figures such as losses)."""


def _ignore(done: int, total: int, figures: Mapping[str, float]) -> None:
    """The reporter of a plugin that nobody listens to."""


class Checkpoints(Protocol):
    """Where a training keeps its state, so that it can be taken up again after it was cut off."""

    def load(self) -> dict[str, Tensor] | None: ...

    def save(self, state: Mapping[str, Tensor]) -> None: ...


class NoCheckpoints:
    """Keeps nothing."""

    def load(self) -> None:
        return None

    def save(self, state: Mapping[str, Tensor]) -> None:
        pass


class Plugin(Generic[ConfigT]):
    """Base of every contract. `name` is set by the decorator, the rest by the harness.

    Attributes:
        version: Raised when the plugin's results change, for the same parameters. Only built-in plugins
            need it: of others the code itself counts.
        config: The typed parameters.
        checkpoints: Where a training keeps its state; `benchmark.training.Loop` sees to it.
        step_limit: An upper limit of training steps, for checks that only look whether it runs.
        loops_begun: How many training loops there were so far.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    reporter: Reporter = staticmethod(_ignore)
    checkpoints: Checkpoints = NoCheckpoints()
    step_limit: int | None = None
    loops_begun: int = 0

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def config_type(cls) -> type[Config]:
        """The configuration class that the plugin was parametrised with, e.g. `Defense[MyConfig]`."""
        for base in cls.__mro__:
            for generic in getattr(base, "__orig_bases__", ()):
                for argument in typing.get_args(generic):
                    if isinstance(argument, type) and issubclass(argument, Config):
                        return argument
        return Config

    def report(self, done: int, total: int, **figures: float) -> None:
        """Tell the harness how far a training is; `figures` are losses or rates.

        A figure that is not finite ends the training: the harness raises and stores no weights.
        """
        self.reporter(done, total, figures)


PluginT = TypeVar("PluginT", bound=type[Plugin[Any]])


def named(kind: str, base: type[Plugin[Any]], name: str) -> Callable[[PluginT], PluginT]:
    """The decorator behind `@defense("name")` and its siblings: checks the base, sets the name."""

    def mark(cls: PluginT) -> PluginT:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(f"@{kind}({name!r}) needs a subclass of {base.__name__}, got {cls!r}")
        cls.name = name
        return cls

    return mark
