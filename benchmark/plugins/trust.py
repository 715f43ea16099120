"""Which code a grid may run: only files and packages that the user names with `--trust` or `--plugin`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmark.errors import Problem, UserError
from benchmark.plugins.fingerprint import PROJECT_PACKAGES

_LIBRARIES = (
    *("torch", "functorch", "torchgen", "numpy", "pandas", "scipy", "sklearn", "joblib", "cloudpickle"),
    *("dill", "fsspec", "art", "foolbox", "eagerpy", "pip", "setuptools", "pkg_resources", "IPython"),
)

UNTRUSTABLE = frozenset({*sys.stdlib_module_names, *_LIBRARIES, *PROJECT_PACKAGES})
"""Packages whose functions a grid can never call.

The standard library and these libraries contain functions that run code from their arguments, such as
`torch.load` and `os.system`. Trust in such a package would be trust in every grid that names it.
"""

_ROOTS = (
    *("purifier-benchmark", "torch", "torchvision", "adversarial-robustness-toolbox", "foolbox"),
    *("pip", "setuptools", "wheel", "pytest", "mypy", "ruff", "ipython", "jupyter", "notebook"),
)
"""Distributions that are tools, as is everything that they require; none is a collection of models."""


@dataclass(frozen=True)
class Trust(Collection[Path]):
    """Files (resolved paths) and top-level packages whose code may run; as a collection it has the files."""

    files: frozenset[Path] = frozenset()
    packages: frozenset[str] = frozenset()

    def __contains__(self, path: object) -> bool:
        return path in self.files

    def __iter__(self) -> Iterator[Path]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


NO_TRUST = Trust()


def read_trust(entries: Sequence[str | Path], plugins: Sequence[str | Path] = ()) -> Trust:
    """The files and packages that `--trust` and `--plugin` name.

    Args:
        entries: Files, or names of packages.
        plugins: Plugin files. Their code runs anyway, so a factory may be in one of them.

    Raises:
        UserError: An entry is neither a file nor an importable package, or can never be trusted.
    """
    if problems := [fault for entry in entries if (fault := _fault(str(entry))) is not None]:
        raise UserError(problems)
    files = (*plugins, *(entry for entry in entries if Path(entry).is_file()))
    packages = frozenset(str(entry) for entry in entries if not Path(entry).is_file())
    return Trust(frozenset(Path(file).resolve() for file in files), packages)


def _fault(text: str) -> Problem | None:
    is_file, is_package = Path(text).is_file(), text.isidentifier() and is_importable(text)
    if is_file and is_package:
        return Problem(
            f"--trust: {text!r} is a file here and also a package",
            hint=f"write --trust ./{text} for the file, or start the command in another folder",
        )
    if not is_file and is_untrustable(text):
        return Problem(
            f"--trust: {text} contains functions that run code from their arguments, or is a library that "
            "this project or torch needs, so it cannot be trusted as a whole",
            hint="put a function that makes the classifier into a file, and name that file",
        )
    if is_file or is_package:
        return None
    hint = "a package is named by its import name, without a module: --trust my_package"
    return Problem(f"--trust: there is no file {text!r}, and no installed package of that name", hint=hint)


def is_untrustable(package: str) -> bool:
    """Whether a package is in `UNTRUSTABLE`, or is required by this project, by torch or by a standard tool.

    Every machine that runs a grid has such a package, and nobody has reviewed what all of its functions do
    with arguments from a grid: `sympy.sympify` runs its text argument as code. Packages that only an extra
    of this project requires may be trusted.
    """
    if package in UNTRUSTABLE:
        return True
    names = _distributions().get(package, ()) if package.isidentifier() else ()
    return any(_normalised(name) in _required() for name in names)


_distributions = cache(importlib.metadata.packages_distributions)


@cache
def _required() -> frozenset[str]:
    """The normalised names of `_ROOTS` and of all distributions that they require, directly or not."""
    required: set[str] = set()
    queue = list(_ROOTS)
    while queue:
        name = _normalised(queue.pop())
        if name in required:
            continue
        required.add(name)
        with suppress(importlib.metadata.PackageNotFoundError):  # e.g. this project, run from its sources
            lines = importlib.metadata.requires(name) or ()
            matches = (re.match(r"\s*([\w.-]+)", line) for line in lines if "extra ==" not in line)
            queue += [match[1] for match in matches if match]
    return frozenset(required)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def is_importable(package: str) -> bool:
    """Whether a top-level module of that name can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def consent_hint(option: str, name: str | Path) -> str:
    """The hint that names the exact option by which the user gives consent."""
    return f"if you trust who wrote it, repeat the command with {option} {quoted(name)}"


def quoted(name: str | Path) -> str:
    """A name as one word of a shell command, whatever characters it has; never read as an option."""
    text = str(name)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    # Control characters could change what the terminal shows, so they are written as escapes.
    encoded = text.encode(errors="surrogateescape")
    escaped = (f"\\x{byte:02x}" if not 32 <= byte < 127 or byte in b"\\'" else chr(byte) for byte in encoded)
    return f"$'{''.join(escaped)}'"
