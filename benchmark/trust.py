"""Whose code may run: what the user named with `--trust` and `--plugin`, and nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
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

_ROOTS = (
    *("purifier-benchmark", "torch", "torchvision", "adversarial-robustness-toolbox", "foolbox"),
    *("pip", "setuptools", "wheel", "pytest", "mypy", "ruff", "ipython", "jupyter", "notebook"),
)
"""Distributions that, with all that they require, are tools and not somebody's collection of models."""


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
    if is_a_tool(text):
        return Problem(
            f"--trust: {text} holds functions that run whatever they are given, or is a library that this "
            "project or torch needs, so it cannot be trusted as a whole",
            hint="put a function that makes the classifier into a file, and name that file",
        )
    if is_package:
        return None
    hint = "a package is named by its import name, without a module: --trust my_package"
    return Problem(f"--trust: there is no file {text!r}, and no installed package of that name", hint=hint)


def is_a_tool(package: str) -> bool:
    """Whether a package is in `NEVER`, or is required by this project, by torch or by a standard tool.

    Such a package is on every machine that runs a grid, and nobody has reviewed all its functions for what
    the arguments in a grid can do: `sympy.sympify` runs the text that it is given. What extras of this
    project install does not count.
    """
    if package in NEVER:
        return True
    if not package.isidentifier():
        return False
    return any(_normalised(name) in _required() for name in _distributions().get(package, ()))


@cache
def _distributions() -> dict[str, list[str]]:
    """The distributions that install each top-level package."""
    return dict(importlib.metadata.packages_distributions())


@cache
def _required() -> frozenset[str]:
    """The normalised names of `_ROOTS` and of all distributions that they require, directly or not."""
    found: set[str] = set()
    waiting = list(_ROOTS)
    while waiting:
        name = _normalised(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            needs = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:  # as this project, if it runs from its sources
            continue
        named = (need.partition(";") for need in needs if "extra ==" not in need)
        waiting += [match[0] for need, _, _ in named if (match := re.match(r"[\w.-]+", need.strip()))]
    return frozenset(found)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def is_importable(package: str) -> bool:
    """Whether there is a top-level module of that name; it is looked for and not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def ask(option: str, what: str | Path) -> str:
    """The hint of a refusal: the exact option that gives consent."""
    return f"if you trust who wrote it, repeat the command with {option} {quoted(what)}"


def quoted(what: str | Path) -> str:
    """A name as one word of a shell command, whatever is in it; never read as an option."""
    text = str(what)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    # Control characters could change what the terminal shows, so they are written as escapes.
    escaped = (
        f"\\x{byte:02x}" if not 32 <= byte < 127 or byte in b"\\'" else chr(byte) for byte in _bytes(text)
    )
    return f"$'{''.join(escaped)}'"


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
