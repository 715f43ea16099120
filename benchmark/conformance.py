"""`bench check`: whether a defense keeps its contract, found out by running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from benchmark.checks import CHECKS
from benchmark.errors import PluginError, UserError, told
from benchmark.files import shown
from benchmark.opened_files import opened_by, watching
from benchmark.registry import KINDS, Entry, default_registry
from benchmark.specimen import Shape, Specimen
from defenses.contract import Defense

SHAPES: Sequence[Shape] = ((1, 28, 28), (3, 32, 32))
"""Images that a defense is tried on; it must take one of the two."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is None where the check does not apply, and `detail` says why."""

    subject: str
    ok: bool | None
    detail: str


def find_defense(name: str, plugins: Sequence[Path]) -> Entry:
    """The defense of that name.

    Raises:
        UserError: There is none, or it is the name of something else.
    """
    registry = default_registry(plugins)
    others = [kind for kind in KINDS if kind != "defense" and name in registry.names(kind)]
    if others and name not in registry.names("defense"):
        raise UserError(f"{name!r} is the name of {_article(others[0])}; only defenses can be checked")
    return registry.get("defense", name)


def check_defense(
    entry: Entry,
    *,
    shapes: Sequence[Shape] = SHAPES,
    device: torch.device = _CPU,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Finding]:
    """Examine a defense; a plugin that raises is a finding, not an exception.

    Args:
        entry: A registered defense.
        shapes: Shapes (C, H, W) of images to try it on.
        device: Where to run it.
        config: Parameters in place of the defaults.

    Raises:
        UserError: Its file cannot be imported.
    """
    kind = entry.load()
    assert issubclass(kind, Defense)
    try:
        given = config or {}
        with watching("defense", kind, own=kind.config_type().named_in(given)):
            settings = kind.config_type()(**given)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        yield Finding("parameters", False, f"cannot be made with its defaults: {faults}")
        return
    taken = 0
    for shape in shapes:
        title = "×".join(map(str, shape))
        try:
            specimen = Specimen(kind, settings, shape, device)
        except ValueError as error:
            yield Finding(f"{title} images", None, f"cannot take them: {error}")
            continue
        except (Exception, SystemExit) as error:  # whatever it raises is the finding
            taken += 1
            yield Finding(f"{title} images", False, told(error))
            continue
        taken += 1
        yield Finding(f"{title} images", True, "takes them")
        for finding in _examine(specimen):
            yield Finding(f"{title} {finding.subject}", finding.ok, finding.detail)
    if not taken:
        yield Finding("images", False, "takes none of the shapes that it was tried on")


def _examine(specimen: Specimen) -> Iterator[Finding]:
    """All checks on one shape."""
    failed = ""
    for check in CHECKS:
        if failed:
            yield Finding(check.subject, None, f"not judged: {failed} failed")
            continue
        try:
            ok, detail = check.judge(specimen)
        except PluginError as error:
            ok, detail = False, str(error)
        except (Exception, SystemExit) as error:  # whatever it raises is the finding
            ok, detail = False, told(error)
        yield Finding(check.subject, ok, " ".join(detail.split()))
        if ok is False and check.decisive:
            failed = check.subject
    yield _files(specimen)


def _files(specimen: Specimen) -> Finding:
    """Whether all files that were opened in the other checks are declared; judged whatever failed before."""
    opened = opened_by("defense", specimen.kind, specimen.config)
    wrong = [
        f"opens {place}, which is no parameter, so old results stay in use when the file changes: "
        f"{_advice(place)}"
        for place in map(shown, opened.paths)
    ]
    wrong += [
        f"uses {words}, and what that reads cannot be seen: read the file in Python, and declare it"
        for words in opened.others
    ]
    return Finding("files", not wrong, "; ".join(wrong) or "none is opened that is not declared")


def _advice(place: str) -> str:
    declare = f'declare it, `weights: FilePath = file("{place}")`'
    return f"import it with an import statement, or {declare}" if place.endswith(".py") else declare


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
