"""Values of a grid that can be written as JSON and read back: only these can name a result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AnySet

_DEEPEST = 50


def unfit(value: object, depth: int = 0) -> str | None:
    """Why a parameter cannot have this value; None if it can.

    Results are named by their parameters as JSON. So a value is a number, text, a truth, null, or a list or
    mapping of such, as deep as JSON readers go on every machine.
    """
    if depth > _DEEPEST:
        return f"is nested deeper than {_DEEPEST} levels"
    if isinstance(value, Mapping):
        members = [member for pair in value.items() for member in pair]
    elif isinstance(value, list | tuple):
        members = list(value)
    else:
        return _unfit_alone(value)
    return next((why for member in members if (why := unfit(member, depth + 1)) is not None), None)


def _unfit_alone(value: object) -> str | None:
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
    return f"holds {kind}: only numbers, text, true, false, null, lists and mappings have a place in a grid"
