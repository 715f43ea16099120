"""Factories, functions that make classifiers: which of them a grid may name, and how they are imported."""

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
from typing import Any, NamedTuple

from torch import nn

from benchmark.api import (
    UNTRUSTABLE,
    Trust,
    UserError,
    consent_hint,
    format_exception,
    import_file,
    import_module,
    is_importable,
    is_untrustable,
)

GROUP = "bench.factories"
"""The group of entry points by which an installed package declares its factories."""

COLLECTIONS = {
    "torchvision": ("torchvision.models",),
    "timm": ("timm", "timm.models"),
    "robustbench": ("robustbench.model_zoo",),
}
"""Model collections: packages whose model functions need no consent, and the modules of these functions."""

_TEXT_ARGUMENTS = (
    *("name", "model_name", "weights", "weights_backbone"),
    *("act_layer", "norm_layer", "global_pool"),
)
"""Arguments of these functions that may be text. Others, such as `checkpoint_path`, name files to read."""


class Factory(NamedTuple):
    """A function that makes a classifier, and the module that a grid names for it."""

    module: ModuleType
    function: Callable[..., Any]


def find_factory(text: str, trust: Trust, arguments: Mapping[str, Any]) -> Factory:
    """Import the function that a grid names; imports only code that may run.

    Args:
        text: `package.module:function`, or `file.py:function`.
        trust: The files and packages whose code may run.
        arguments: The arguments that the function will be called with.

    Raises:
        UserError: The function does not exist, or its code may not run.
    """
    location, _, name = text.rpartition(":")
    if not location or not name.isidentifier():
        raise _refusal(f"no factory {text!r}", "give package.module:function, or file.py:function")
    if Path(location).suffix == ".py":
        module = _imported(location, lambda: _import_trusted_file(Path(location), trust))
        return Factory(module, _defined_function(module, name, location, {module.__name__}))
    allowed = _is_allowed(location, name, trust)
    module = _imported(location, lambda: import_module(location))
    package = location.partition(".")[0]
    if not allowed:
        return Factory(module, _collection_function(module, name, location, arguments))
    function = _defined_function(module, name, location, {package, *trust.packages})
    if not _is_declared(location, name):
        _require_module_type(function, location, name)
    return Factory(module, function)


def _refusal(message: str, hint: str | None = None) -> UserError:
    return UserError(f"target module: {message}", hint=hint)


def _import_trusted_file(path: Path, trust: Trust) -> ModuleType:
    if not path.is_file():
        raise _refusal(f"there is no file {str(path)!r}", f"relative paths start at {Path.cwd()}")
    if path.resolve() not in trust:
        raise _refusal(
            f"the grid names a function in {path}, and code in files runs only with consent",
            consent_hint("--trust", path),
        )
    return import_file(path)


def _imported(location: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise _refusal(f"{location} cannot be imported: {format_exception(error)}") from error


def _is_allowed(location: str, name: str, trust: Trust) -> bool:
    """Whether the whole package is trusted or declares this function; False for a model collection.

    Raises:
        UserError: It is none of these.
    """
    package = location.partition(".")[0]
    untrustable = _refusal(
        f"{location}:{name} is no factory: a grid never calls a function of {package!r}",
        "put a function that makes the classifier into a file, and name that: file.py:function",
    )
    if package in UNTRUSTABLE or not all(part.isidentifier() for part in location.split(".")):
        raise untrustable
    if _is_in_collection(location) and package not in trust.packages:
        return False
    if is_untrustable(package):
        raise untrustable
    if package in trust.packages or _is_declared(location, name):
        return True
    if not is_importable(package):
        raise _refusal(
            f"{location} cannot be imported: no package {package!r} is installed",
            "is it installed in this environment? file.py:function works too",
        )
    raise _refusal(
        f"the grid names a function of the package {package}, whose code runs only with consent",
        consent_hint("--trust", package),
    )


def _is_in_collection(location: str) -> bool:
    """Whether a module holds the model functions of an installed model collection."""
    package = location.partition(".")[0]
    if package not in COLLECTIONS or not is_importable(package) or not is_installed(package):
        return False
    modules = COLLECTIONS[package]
    return any(location == module or location.startswith(f"{modules[-1]}.") for module in modules)


def _require_module_type(function: Callable[..., Any], location: str, name: str) -> None:
    """Refuse a function that does not state that it makes a module. A grid must not call just any function.

    Raises:
        UserError: It is neither a subclass of `nn.Module` nor a function annotated to return one.
    """
    made = function if isinstance(function, type) else _return_annotation(function)
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise _refusal(
            f"nothing says that {location}:{name} makes a torch.nn.Module",
            f"annotate it `-> nn.Module`, call it in a file of yours (file.py:function), or let its package "
            f"declare it as an entry point of {GROUP}",
        )


def _return_annotation(function: Callable[..., Any]) -> Any:
    """The annotated return type; None if there is none, or if its name cannot be resolved."""
    function = inspect.unwrap(function)
    hints = getattr(function, "__annotations__", {})
    if not isinstance(hints, dict) or "return" not in hints:
        return None
    only_return: Any = SimpleNamespace(__annotations__={"return": hints["return"]})
    try:
        return typing.get_type_hints(only_return, getattr(function, "__globals__", {}))["return"]
    except Exception:  # the text of an annotation may be any expression
        return None


def _is_declared(location: str, name: str) -> bool:
    points = importlib.metadata.entry_points(group=GROUP)
    return any(point.module == location and point.attr in ("", name) for point in points)


def is_installed(package: str) -> bool:
    """Whether a package is in a folder of installed packages; elsewhere it is another one of that name."""
    spec = importlib.util.find_spec(package)
    origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    folders = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    return origin is not None and any(folder in origin.parents for folder in folders)


def _defined_function(
    module: ModuleType, name: str, location: str, homes: Collection[str]
) -> Callable[..., Any]:
    """A function that is defined in one of the modules or packages `homes`, and not imported from elsewhere.

    Raises:
        UserError: There is no such function.
    """
    function = getattr(module, name, None)
    if not callable(function) or isinstance(function, ModuleType):
        raise _refusal(f"{location} has no function {name!r}")
    home = str(getattr(function, "__module__", None))
    if home not in homes and home.partition(".")[0] not in homes:
        raise _refusal(
            f"{name} is not defined in {location} but in {home}, which {location} imports",
            f"define a function in {location} that calls it",
        )
    return function  # type: ignore[no-any-return]


def _collection_function(
    module: ModuleType, name: str, location: str, arguments: Mapping[str, Any]
) -> Callable[..., Any]:
    """A function of a model collection that makes a model, if its arguments name no file.

    Raises:
        UserError: It does something else, or an argument may name a file.
    """
    package = location.partition(".")[0]
    function = _defined_function(module, name, location, {package})
    is_class = isinstance(function, type) and issubclass(function, nn.Module)
    if not is_class and function not in _builders(package):
        raise _refusal(
            f"{location}:{name} is not a model of {package}",
            _alternatives(package, "use a target of this project (`bench list targets`)"),
        )
    refused = [key for key, value in arguments.items() if not _is_harmless(key, value)]
    if refused:
        raise _refusal(
            f"{location}:{name} takes no {', '.join(refused)} from a grid: numbers, true, false and "
            f"lists of them, and text only as {', '.join(_TEXT_ARGUMENTS)}",
            _alternatives(package, "name a file of weights as `weights` of the target"),
        )
    return function


def _alternatives(package: str, first: str) -> str:
    """The hint of a refusal within a model collection."""
    if is_untrustable(package):
        return f"{first}; or call it in a file of yours, and name that: file.py:function"
    return f"{first}; or, {consent_hint('--trust', package)}"


def _builders(package: str) -> Iterable[Any]:
    """The functions of a model collection that make a model by its name, or one model each."""
    if package not in ("torchvision", "timm"):
        return []
    models: Any = importlib.import_module(f"{package}.models")
    if package == "torchvision":
        return [models.get_model, *map(models.get_model_builder, models.list_models())]
    return [models.create_model, *map(models.model_entrypoint, models.list_models())]


def _is_harmless(key: str, value: Any) -> bool:
    """Whether an argument cannot name a file."""
    if isinstance(value, list):
        return all(not isinstance(member, str) and _is_harmless(key, member) for member in value)
    if isinstance(value, str):
        return key in _TEXT_ARGUMENTS and re.fullmatch(r"[A-Za-z0-9_.]+", value) is not None
    return value is None or isinstance(value, bool | int | float)
