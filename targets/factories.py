"""Functions that make classifiers: which of them a grid may name, and how they are found."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sysconfig
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import nn

from benchmark.errors import UserError, told
from benchmark.importing import import_file, import_module
from benchmark.trust import NEVER, Trust, ask, is_a_tool, is_importable

GROUP = "bench.factories"
"""The entry points by which an installed package declares its factories."""

COLLECTIONS = {
    "torchvision": ("torchvision.models",),
    "timm": ("timm", "timm.models"),
    "robustbench": ("robustbench.model_zoo",),
}
"""Packages whose model functions need no consent, and where these are. All else in them does need it."""

_WORDS = (
    *("name", "model_name", "weights", "weights_backbone"),
    *("act_layer", "norm_layer", "global_pool"),
)
"""Arguments of these functions that may be text. Others, such as `checkpoint_path`, name files to be read."""


def find_factory(
    text: str, trusted: Collection[Path], arguments: Mapping[str, Any]
) -> tuple[ModuleType, Callable[..., Any]]:
    """The function that a grid names, and the module that it is in. Imports only what may run.

    Args:
        text: `package.module:function`, or `file.py:function`.
        trusted: What the user trusts: a `Trust`, or files alone as resolved paths.
        arguments: What the function is going to be called with.

    Raises:
        UserError: There is no such function, or nothing says that its code may run.
    """
    trust = Trust.of(trusted)
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise UserError(
            f"target module: no factory {text!r}", hint="give package.module:function, or file.py:function"
        )
    if Path(place).suffix == ".py":
        module = _imported(place, lambda: _file(Path(place), trust))
        return module, _own(module, name, place, {module.__name__})
    allowed = _is_allowed(place, name, trust)
    module = _imported(place, lambda: import_module(place))
    package = place.partition(".")[0]
    if allowed:
        found = _own(module, name, place, {package, *trust.packages})
        if not _is_declared(place, name):
            _refuse_undeclared(found, place, name)
        return module, found
    return module, _of_collection(module, name, place, arguments)


def _file(path: Path, trust: Trust) -> ModuleType:
    if not path.is_file():
        raise UserError(f"target module: there is no file {str(path)!r}", hint=f"seen from {Path.cwd()}")
    if path.resolve() not in trust:
        raise UserError(
            f"target module: the grid names a function in {path}, and code in files does not run unasked",
            hint=ask("--trust", path),
        )
    return import_file(path)


def _imported(place: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # somebody's code may raise anything
        raise UserError(f"target module: {place} cannot be imported: {told(error)}") from error


def _is_allowed(place: str, name: str, trust: Trust) -> bool:
    """Whether the whole package is trusted, or declares this function. False for the model collections.

    Raises:
        UserError: None of these.
    """
    package = place.partition(".")[0]
    never = UserError(
        f"target module: {place}:{name} is no factory: a grid never calls a function of {package!r}",
        hint="put a function that makes the classifier into a file, and name that: file.py:function",
    )
    if package in NEVER or not all(part.isidentifier() for part in place.split(".")):
        raise never
    if _is_of_models(place) and package not in trust.packages:
        return False
    if is_a_tool(package):
        raise never
    if package in trust.packages or _is_declared(place, name):
        return True
    if not is_importable(package):
        raise UserError(
            f"target module: {place} cannot be imported: there is no package {package!r} here",
            hint="is it installed in this environment? file.py:function works too",
        )
    raise UserError(
        f"target module: the grid names a function of the package {package}, whose code does not run unasked",
        hint=ask("--trust", package),
    )


def _is_of_models(place: str) -> bool:
    """Whether a module is one of an installed collection of models."""
    package = place.partition(".")[0]
    if package not in COLLECTIONS or not is_importable(package) or not is_installed(package):
        return False
    modules = COLLECTIONS[package]
    return any(place == known or place.startswith(f"{modules[-1]}.") for known in modules)


def _refuse_undeclared(found: Callable[..., Any], place: str, name: str) -> None:
    """Refuse what does not say that it makes a module: a grid chooses the arguments of the call.

    Raises:
        UserError: It is neither a class of modules nor a function annotated to return one.
    """
    made = found if isinstance(found, type) else _returned(found)
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise UserError(
            f"target module: nothing says that {place}:{name} makes a torch.nn.Module",
            hint=f"annotate it `-> nn.Module`, call it in a file of yours (file.py:function), or let its "
            f"package declare it as an entry point of {GROUP}",
        )


def _returned(function: Callable[..., Any]) -> Any:
    """What a function is annotated to return; None if nothing says so, or the name cannot be resolved."""
    function = inspect.unwrap(function)
    hints = getattr(function, "__annotations__", {})
    if not isinstance(hints, dict) or "return" not in hints:
        return None
    alone: Any = SimpleNamespace(__annotations__={"return": hints["return"]})
    try:
        return typing.get_type_hints(alone, getattr(function, "__globals__", {}))["return"]
    except Exception:  # the text of an annotation may be any expression
        return None


def _is_declared(place: str, name: str) -> bool:
    points = importlib.metadata.entry_points(group=GROUP)
    return any(point.module == place and point.attr in ("", name) for point in points)


def is_installed(package: str) -> bool:
    """Whether a package lies where installed ones do: a folder of that name elsewhere is another one."""
    spec = importlib.util.find_spec(package)
    origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    folders = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    return origin is not None and any(folder in origin.parents for folder in folders)


def _own(module: ModuleType, name: str, place: str, homes: Collection[str]) -> Callable[..., Any]:
    """A function that is defined where it is looked for: what a module imports is not its own.

    Raises:
        UserError: There is none.
    """
    found = getattr(module, name, None)
    if not callable(found) or isinstance(found, ModuleType):
        raise UserError(f"target module: {place} has no function {name!r}")
    home = str(getattr(found, "__module__", None))
    if home not in homes and home.partition(".")[0] not in homes:
        raise UserError(
            f"target module: {name} is not defined in {place} but in {home}, which {place} imports",
            hint=f"define a function in {place} that calls it",
        )
    return found  # type: ignore[no-any-return]


def _of_collection(
    module: ModuleType, name: str, place: str, arguments: Mapping[str, Any]
) -> Callable[..., Any]:
    """A function of a model collection, if it makes a model and its arguments name no file.

    Raises:
        UserError: It does something else, or an argument may name a file.
    """
    package = place.partition(".")[0]
    found = _own(module, name, place, {package})
    is_class = isinstance(found, type) and issubclass(found, nn.Module)
    if not is_class and found not in _builders(package):
        raise UserError(
            f"target module: {place}:{name} is not a model of {package}",
            hint=_otherwise(package, "take a target of this project (`bench list targets`)"),
        )
    odd = [key for key, value in arguments.items() if not _is_plain(key, value)]
    if odd:
        raise UserError(
            f"target module: {place}:{name} takes no {', '.join(odd)} from a grid: numbers, true, false and "
            f"lists of them, and text only as {', '.join(_WORDS)}",
            hint=_otherwise(package, "name a file of weights as `weights` of the target"),
        )
    return found


def _otherwise(package: str, instead: str) -> str:
    """The hint of a refusal within a collection of models."""
    if is_a_tool(package):
        return f"{instead}; or call it in a file of yours, and name that: file.py:function"
    return f"{instead}; or, {ask('--trust', package)}"


def _builders(package: str) -> Iterable[Any]:
    """The functions of a model collection that make a model by its name, or one model each."""
    if package not in ("torchvision", "timm"):
        return []
    models: Any = importlib.import_module(f"{package}.models")
    if package == "torchvision":
        return [models.get_model, *map(models.get_model_builder, models.list_models())]
    return [models.create_model, *map(models.model_entrypoint, models.list_models())]


def _is_plain(key: str, value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(member, str) and _is_plain(key, member) for member in value)
    if isinstance(value, str):
        return key in _WORDS and re.fullmatch(r"[A-Za-z0-9_.]+", value) is not None
    return value is None or isinstance(value, bool | int | float)
