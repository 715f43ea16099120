"""`bench check`: runs a defense to find out whether it keeps its contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from benchmark.api.defense import Defense
from benchmark.errors import PluginError, UserError, format_exception
from benchmark.files.digests import shown
from benchmark.findings import Finding
from benchmark.plugins.opened_files import opened_by, watching
from benchmark.plugins.registry import KINDS, Entry, default_registry
from benchmark.testing.checks import CHECKS, DECISIVE
from benchmark.testing.defense_under_test import DefenseUnderTest, Shape

SHAPES: Sequence[Shape] = ((1, 28, 28), (3, 32, 32))
"""Image shapes that a defense is run on; it must accept one of them."""


def find_defense(name: str, plugins: Sequence[Path]) -> Entry:
    """Find a defense by its name."""
    registry = default_registry(plugins)
    others = [kind for kind in KINDS if kind != "defense" and name in registry.names(kind)]
    if others and name not in registry.names("defense"):
        article = "an" if others[0][0] in "aeiou" else "a"
        raise UserError(f"{name!r} is the name of {article} {others[0]}; only defenses can be checked")
    return registry.get("defense", name)


def check_defense(
    entry: Entry,
    *,
    shapes: Sequence[Shape] = SHAPES,
    device: torch.device | None = None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Finding]:
    """Check a defense. If the plugin raises, that is a finding and not an exception.

    `shapes` are those of the images (C, H, W) to run it on; `config` replaces default parameters. The
    default device is the CPU.
    """
    kind = entry.load()
    assert issubclass(kind, Defense)
    try:
        values = config or {}
        with watching("defense", kind, own=kind.config_type().files_in(values)):
            parameters = kind.config_type()(**values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        yield Finding(False, "parameters", f"cannot be made with its defaults: {faults}")
        return
    refused = 0
    for shape in shapes:
        title = "×".join(map(str, shape))
        try:
            under_test = DefenseUnderTest(kind, parameters, shape, device or torch.device("cpu"))
        except ValueError as error:
            refused += 1
            yield Finding(None, f"{title} images", f"cannot accept them: {error}")
            continue
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            yield Finding(False, f"{title} images", format_exception(error))
            continue
        yield Finding(True, f"{title} images", "accepts them")
        for finding in _run_checks(under_test):
            yield Finding(finding.ok, f"{title} {finding.subject}", finding.detail)
    if refused == len(shapes):
        yield Finding(False, "images", "accepts none of the shapes that it was run on")


def _run_checks(under_test: DefenseUnderTest) -> Iterator[Finding]:
    """Run all checks on images of one shape."""
    failed = ""
    for subject, check in CHECKS.items():
        if failed:
            yield Finding(None, subject, f"skipped: {failed} failed")
            continue
        try:
            ok, detail = check(under_test)
        except PluginError as error:
            ok, detail = False, str(error)
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            ok, detail = False, format_exception(error)
        yield Finding(ok, subject, " ".join(detail.split()))
        if ok is False and subject in DECISIVE:
            failed = subject
    yield _files(under_test)


def _files(under_test: DefenseUnderTest) -> Finding:
    """Check that the defense declares all files that it opened in the other checks."""
    opened = opened_by("defense", under_test.kind, under_test.config)
    faults = [
        f"opens {path}, which is not a parameter, so old results stay in use when the file changes: "
        f"{_advice(path)}"
        for path in map(shown, opened.paths)
    ]
    faults += [
        f"uses {words}, which may read files unseen: read the file in Python, and declare it"
        for words in opened.others
    ]
    return Finding(not faults, "files", "; ".join(faults) or "it opens no file that is not declared")


def _advice(path: str) -> str:
    declare = f'declare it, `weights: FilePath = file("{path}")`'
    return f"import it with an import statement, or {declare}" if path.endswith(".py") else declare
