"""The files of a run that published rows depend on, and the plugin files that it needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.files.names import child
from benchmark.files.tables import Row
from benchmark.files.writing import is_regular_file, not_regular_file
from benchmark.plan.threats import THREATS
from benchmark.plugins.trust import quoted
from benchmark.publishing.board_files import read_rows, row_identity, slug
from benchmark.results.cell_outcomes import group_by
from benchmark.results.columns import RECORD_COLUMNS
from benchmark.results.reading import read_run_metadata
from benchmark.storage.keys import digest

FILES = ("run.json", "records.csv", "outside.json")
"""The files of a run that are published; `outside.json` exists only if external images were added."""

PLUGINS = "plugins"
"""The subfolder of a published run with the plugin files that are not part of the repository."""

_PIPELINE_COLUMNS = ("dataset", "target", "target_config", "defense", "defense_config")
_ATTACK_COLUMNS = (
    *("threat", "threat_config", "attack", "attack_config", "backend", "targeted", "norm", "eps"),
    *("target_seed", "attack_seed"),
)
_BALL_COLUMNS = ("threat", "threat_config", "norm", "eps")


@dataclass(frozen=True)
class Run:
    """The folder of a run, as `bench run` wrote it or as it lies beside the published rows.

    Files are read on first use; a property raises UserError if its file is missing or damaged.
    """

    folder: Path

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The content of `run.json`."""
        path = self.folder / "run.json"
        if not path.is_file():
            hint = "name a folder that `bench run` wrote, e.g. results/runs/quick"
            raise UserError(f"no run in {self.folder}: there is no run.json", hint=hint)
        if not is_regular_file(path):
            raise not_regular_file(path)
        metadata = read_run_metadata(self.folder)
        if not isinstance(metadata.get("grid"), dict):
            raise UserError(f"{path} is not the run.json of a run: it has no grid")
        return metadata

    @cached_property
    def records(self) -> Sequence[Row]:
        """The rows of `records.csv`; values are numbers, booleans and text."""
        rows, problems = read_rows(self.folder / "records.csv", RECORD_COLUMNS)
        if problems:
            raise UserError(problems)
        return rows

    @cached_property
    def name(self) -> str:
        """The name of the grid and a digest of the files of the run."""
        contents = [path.read_bytes() for name in FILES if (path := self.folder / name).is_file()]
        return f"{slug(self.metadata['name'])}-{hashlib.sha256(b''.join(contents)).hexdigest()[:8]}"

    @property
    def commit(self) -> str | None:
        """The commit that made the run; None if it is unknown or the working tree had changes."""
        git = self.metadata.get("git")
        if not isinstance(git, dict) or git.get("dirty") is not False:
            return None
        commit = git.get("commit")
        return commit if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit) else None

    @property
    def schema(self) -> int:
        """The schema of its keys; 1 if `run.json` names none. Keys of schema 1 hashed code."""
        schema = self.metadata.get("schema", 1)
        return schema if isinstance(schema, int) else 1

    @property
    def mixed_code(self) -> list[str]:
        """Plugins and tasks whose results in this run were made by more than one version of their code."""
        made = self.metadata.get("made")
        code = made.get("code") if isinstance(made, dict) else None
        if not isinstance(code, dict):
            return []  # earlier runs did not record their code
        return sorted(name for name, found in code.items() if not isinstance(found, list) or len(found) > 1)

    @property
    def plugins(self) -> Mapping[str, str]:
        """The plugin files that are not part of the repository: SHA-256 by name."""
        plugins = self.metadata.get("plugins", {})
        if not isinstance(plugins, dict):
            raise UserError(f"{self.folder / 'run.json'}: plugins is not a mapping")
        for name in plugins:
            child(self.folder / PLUGINS, name)
        return plugins

    @property
    def kept_plugins(self) -> list[Path]:
        """The plugin files that were published with the run."""
        return sorted((self.folder / PLUGINS).glob("*.py"))

    @property
    def missing_cells(self) -> list[str]:
        """Keys of planned cells without a record."""
        try:
            planned = {cell["key"] for cell in self.metadata["resolved"]["cells"]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / 'run.json'} names no cells: {error!r}") from error
        return sorted(planned - {cell["key"] for cell in self.records})

    def images(self, dataset: str) -> str:
        """The digest of the images of a data set."""
        try:
            return str(self.metadata["resolved"]["datasets"][dataset]["images"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / 'run.json'} has no digest of {dataset}: {error!r}") from error

    def key(self, row: Row) -> str:
        """A digest of the identity of a row and of the keys of its cells."""
        return digest([list(row_identity(row)), sorted(cell["key"] for cell in self.cells(row))])

    def protocol(self, row: Row) -> str:
        """A digest of the images and the attacks of a row."""
        return digest([self.images(row["dataset"]), sorted(map(list, self.attacks(row)), key=str)])[:16]

    def attacks(self, row: Row) -> set[tuple[Any, ...]]:
        """The attacks on a row that can find an image in its ball, with parameters and seeds.

        Includes attacks that were skipped because they do not apply to the defense.
        """
        return {
            tuple(cell[name] for name in _ATTACK_COLUMNS)
            for cell in self.cells(row)
            if cell["eps"] is None or (cell["norm"] == row["norm"] and cell["eps"] <= row["eps"])
        }

    def cells(self, row: Row) -> list[Row]:
        """The cells of a row's pipeline under its threat and the threats that this one contains."""
        threats = (row["threat"], *THREATS[row["threat"]].nested)
        return [c for c in self.records if _agree(c, row, _PIPELINE_COLUMNS) and c["threat"] in threats]

    def cells_in_ball(self, row: Row) -> list[Row]:
        """The cells of a row with status ok that were attacked under its very threat and ball."""
        return [c for c in self.cells(row) if c["status"] == "ok" and _agree(c, row, _BALL_COLUMNS)]

    def cells_by_seeds(self, row: Row) -> list[list[Row]]:
        """`cells_in_ball` for each combination of seeds; the error of the row is the mean over these."""
        training_seeds = itemgetter("target_seed", "defense_seed")
        related = group_by(self.cells(row), training_seeds)
        groups = []
        for training, trained in group_by(self.cells_in_ball(row), training_seeds).items():
            for seed in _attack_seeds(trained) or _attack_seeds(related[training]) or {None}:
                groups.append([cell for cell in trained if cell["attack_seed"] in (None, seed)])
        return groups


RunOf = Callable[[Row], Run]
"""Returns the run of a row."""


def runs_in(folder: Path, *others: Run) -> RunOf:
    """A function that returns the run of a row: one of `others`, or one in the folder; each is read once.

    The function raises UserError if the name of a run leads out of the folder.
    """
    known = {run.name: run for run in others}

    @cache
    def named(name: str) -> Run:
        return known.get(name) or Run(child(folder, name))

    return lambda row: named(row["run"])


def plugin_problems(run: Run, files: Sequence[Path]) -> list[Problem]:
    """Reasons why plugin files are not those that the run was made with."""
    paths = {path.name: path for path in files}
    problems = []
    for name, sha in run.plugins.items():
        path = paths.get(name)
        if path is None or not path.is_file():
            text = f"the run needed the plugin file {name}, which is not in the repository"
            hint = f"add it there and run again, or name it with --plugin {quoted(name)}"
            problems.append(Problem(text, hint=hint))
        elif not is_regular_file(path):
            problems += not_regular_file(path).problems
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha:
            problems.append(Problem(f"{path} is not the plugin file that the run was made with"))
    return problems


def _agree(cell: Row, row: Row, columns: Sequence[str]) -> bool:
    return all(cell[name] == row[name] for name in columns)


def _attack_seeds(cells: Iterable[Row]) -> set[int | None]:
    return {cell["attack_seed"] for cell in cells if cell["attack_seed"] is not None}
