"""Validating the parameters of one entry of a grid, with messages that name the parameter at fault."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from collections.abc import Set as AnySet
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from benchmark.plan.yaml_lines import PathInDocument
from benchmark.plugins.plugin import Config, ConfigT

_MAX_DEPTH = 50

Report = Callable[[PathInDocument, str, str | None], None]
"""Receives a problem: its place in the document, a message, and a hint."""


def validate_parameters(
    owner: str, config_type: type[ConfigT], path: PathInDocument, params: dict[str, Any], report: Report
) -> ConfigT | None:
    """The configuration with these parameters; None if any is invalid.

    `owner` is the kind and the name of the plugin or threat, for messages. `path` is the place of the entry.
    """
    faults = {name: fault for name, value in params.items() if (fault := value_fault(value)) is not None}
    # First let the fields validate: a field with bounds has a better message for an infinite number.
    try:
        config = config_type(**params)
    except ValidationError as error:
        for detail in error.errors():
            _explain(owner, config_type, path, params, dict(detail), report)
        return None
    for name, fault in faults.items():
        report((*path, name), f"{owner}: {name} {fault}", None)
    return None if faults else config


def _explain(
    owner: str,
    config_type: type[Config],
    path: PathInDocument,
    params: Mapping[str, Any],
    detail: dict[str, Any],
    report: Report,
) -> None:
    location = detail["loc"]
    fields: Mapping[str, FieldInfo] = config_type.model_fields
    while len(location) > 1 and (inner := _inner_fields(fields, location[0])) is not None:
        # the fault is within a parameter that is itself a mapping
        name, *location = location
        owner, path, params, fields = f"{owner}: {name}", (*path, name), params[name], inner
    name = location[0] if location else ""
    known = ", ".join(fields) or "none"
    if detail["type"] == "extra_forbidden":
        report((*path, name), f"{owner} has no parameter {name!r}", f"its parameters: {known}")
    elif detail["type"] == "missing":
        report(path, f"{owner} needs {name!r}", f"its parameters: {known}")
    else:
        problem = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "model_type":  # pydantic would show the name of an internal class
            problem = f"must be a mapping of {', '.join(_inner_fields(fields, name) or ())}"
        hint = None
        if detail["type"] == "string_pattern_mismatch":  # pydantic would only show the regular expression
            problem = "not in one of the accepted forms"
            hint = f"`bench show {owner.partition(':')[0].rpartition(' ')[2]}` describes this parameter"
        shown = f"{name} = {params[name]!r}: " if name in params else ""
        report((*path, *location[:1]), f"{owner}: {shown}{problem}", hint)


def _inner_fields(fields: Mapping[str, FieldInfo], name: Any) -> Mapping[str, FieldInfo] | None:
    """The fields of a parameter that is itself a mapping; None for any other."""
    if name not in fields:
        return None
    annotation = fields[name].annotation
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind.model_fields
    return None


def value_fault(value: object, depth: int = 0) -> str | None:
    """Why a parameter cannot have this value; None if it can.

    The keys of results contain parameters as JSON. So a value must be a number, text, a boolean, null, or a
    list or mapping of these, no deeper than every JSON reader supports.
    """
    if depth > _MAX_DEPTH:
        return f"is nested deeper than {_MAX_DEPTH} levels"
    if not isinstance(value, Mapping | list | tuple):
        return _scalar_fault(value)
    members = [*value, *value.values()] if isinstance(value, Mapping) else value
    return next((fault for member in members if (fault := value_fault(member, depth + 1)) is not None), None)


def _scalar_fault(value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"holds {value}, and numbers have to be finite"
    if isinstance(value, str):
        if "\0" in value:
            return "holds the character NUL"
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds text that is not valid Unicode"
        return None
    if value is None or isinstance(value, bool | int | float):
        return None
    tag = str(getattr(getattr(value, "tag", None), "value", None) or "")
    name = "set" if isinstance(value, AnySet) else type(value).__name__
    kind = f"a value of the unknown YAML tag {tag}" if tag else f"a value of the type {name}"
    return f"holds {kind}; a grid may only hold numbers, text, true, false, null, lists and mappings"
