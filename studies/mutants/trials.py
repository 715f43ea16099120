"""Trials of mutants in copies of the repository, so that the working tree is never changed."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from studies.mutants.mutations import Mutant

_SERVER = Path(__file__).with_name("server.py")
_LEFT_OUT = (
    ".git",
    ".venv",
    ".lint",
    ".mypy_cache",
    ".ruff_cache",
    ".import_linter_cache",
    "runs",
    "*.egg-info",
)
LIBRARIES = (
    *("torch", "torchvision", "torchmetrics.functional.image", "numpy", "scipy.special", "scipy.optimize"),
    *("pandas", "pyarrow.parquet", "sklearn.datasets", "pydantic", "ruamel.yaml", "typer.testing", "rich"),
    *("safetensors.torch", "pytest", "_pytest.assertion.rewrite", "skimage.metrics", "foolbox", "eagerpy"),
    *("art.attacks.evasion", "art.estimators.classification"),
)
"""What the tests import; imported once."""

_FACTOR = 2.0
"""A trial may take this many times the processor time of the unchanged code, and some seconds more."""

_PATIENCE = 20
"""Wall-clock seconds per second of that limit: another process may use the core too."""


@dataclass(frozen=True)
class Trial:
    """What the tests said: `killed`, `survived`, `hung`, `crashed` or `broken` (pytest could not run them).

    `test` is the first test that failed.
    """

    outcome: str
    test: str
    cpu_seconds: float

    @property
    def seen(self) -> bool:
        """Whether the mutant was noticed."""
        return self.outcome != "survived"


class Copy:
    """A copy of a repository with a process that runs tests in it.

    Args:
        repository: The folder with the code and its tests.
        folder: The folder in which the copy is made, as `repository`.
        libraries: Modules that the process imports, so that tests need not.
        spare: Seconds of processor time that a trial may always take.
    """

    def __init__(
        self, repository: Path, folder: Path, libraries: Sequence[str] = LIBRARIES, spare: float = 10.0
    ) -> None:
        self.folder, self._spare = folder / "repository", spare
        shutil.copytree(repository, self.folder, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
        compileall.compile_dir(self.folder, quiet=2)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        command = [sys.executable, str(_SERVER), *libraries]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=pipe, stdout=pipe, text=True
        )
        self._unchanged: dict[tuple[str, ...], Trial] = {}

    def __enter__(self) -> Copy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def unchanged(self, tests: Sequence[str]) -> Trial:
        """The trial of the unchanged code, which has to survive its tests.

        Raises:
            RuntimeError: A test fails without any mutant.
        """
        key = tuple(tests)
        if key not in self._unchanged:
            trial = self._ask({"tests": key, "cpu_seconds": 1200, "seconds": 3600, "warm": True})
            if trial.seen:
                log = (self.folder / ".trial.log").read_text(encoding="utf-8")[-3000:]
                raise RuntimeError(f"without a mutant, {trial.test or key} is {trial.outcome}:\n{log}")
            self._unchanged[key] = trial
        return self._unchanged[key]

    def try_mutant(self, mutant: Mutant, tests: Sequence[str]) -> Trial:
        """Run the tests of a place with the mutant in it."""
        limit = _FACTOR * self.unchanged(tests).cpu_seconds + self._spare
        path = self.folder / mutant.path
        source = path.read_bytes()
        try:
            path.write_text(mutant.apply(source.decode()), encoding="utf-8")
            self._forget(path)
            return self._ask({"tests": list(tests), "cpu_seconds": limit, "seconds": _PATIENCE * limit})
        finally:
            path.write_bytes(source)
            self._forget(path)
            compileall.compile_file(path, quiet=2)

    @staticmethod
    def _forget(path: Path) -> None:
        """Remove the bytecode: a changed file of the same size and second would not be compiled again."""
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def _ask(self, request: dict[str, Any]) -> Trial:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not (answer := self._process.stdout.readline()):
            raise RuntimeError("the process that runs the tests has ended")
        return Trial(**json.loads(answer))
