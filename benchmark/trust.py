"""Whose code may run: what the user named with `--trust` and `--plugin`, and nothing else."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.code import PROJECT_PACKAGES
from benchmark.errors import Problem, UserError

_LIBRARIES = (
    *("torch", "functorch", "torchgen", "numpy", "pandas", "scipy", "sklearn", "joblib", "cloudpickle"),
    *("dill", "fsspec", "art", "foolbox", "eagerpy", "pip", "setuptools", "pkg_resources", "IPython"),
)

NEVER = frozenset({*sys.stdlib_module_names, *_LIBRARIES, *PROJECT_PACKAGES})
"""Packages whose functions a grid can never call.

Python's own and these libraries hold functions that run what they are given, such as `torch.load` and
`os.system`: to trust the package would be to trust every grid that names it.
"""


@dataclass(frozen=True)
class Trust(Collection[Path]):
    """Files and packages whose code may run. As a collection it holds the files, as resolved paths."""

    files: frozenset[Path] = frozenset()
    packages: frozenset[str] = frozenset()

    @classmethod
    def of(cls, trusted: Collection[Path]) -> Trust:
        """The same files as a `Trust`; one that is a `Trust` already stays as it is."""
        return trusted if isinstance(trusted, Trust) else cls(frozenset(trusted))

    def __contains__(self, path: object) -> bool:
        return path in self.files

    def __iter__(self) -> Iterator[Path]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def read_trust(given: Sequence[str | Path], plugins: Sequence[str | Path] = ()) -> Trust:
    """What `--trust` and `--plugin` name.

    Args:
        given: Files, or names of packages.
        plugins: Plugin files; their code runs anyway, so a factory may be in one of them.

    Raises:
        UserError: Something is neither a file nor an importable package, or can never be trusted.
    """
    files = {Path(plugin).resolve() for plugin in plugins}
    packages: set[str] = set()
    problems = []
    for entry in given:
        if (fault := _fault(str(entry))) is not None:
            problems.append(fault)
        elif Path(entry).is_file():
            files.add(Path(entry).resolve())
        else:
            packages.add(str(entry))
    if problems:
        raise UserError(problems)
    return Trust(frozenset(files), frozenset(packages))


def _fault(text: str) -> Problem | None:
    is_package = text.isidentifier() and is_importable(text)
    if Path(text).is_file():
        if is_package:
            return Problem(
                f"--trust: {text!r} is a file here and also a package",
                hint=f"write --trust ./{text} for the file, or start the command in another folder",
            )
        return None
    if text in NEVER:
        return Problem(
            f"--trust: {text} holds functions that run whatever they are given, so it cannot be trusted as a "
            "whole",
            hint="put a function that makes the classifier into a file, and name that file",
        )
    if is_package:
        return None
    hint = "a package is named by its import name, without a module: --trust my_package"
    return Problem(f"--trust: there is no file {text!r}, and no installed package of that name", hint=hint)


def is_importable(package: str) -> bool:
    """Whether there is a top-level module of that name; it is looked for and not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def ask(option: str, what: str | Path) -> str:
    """The hint of a refusal: the exact option that gives consent."""
    return f"if you trust who wrote it, repeat the command with {option} {shlex.quote(str(what))}"
