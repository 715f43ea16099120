"""What published rows rest on: the record of a run, with the plugin files that it needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.file_names import child
from benchmark.keys import digest
from benchmark.publishing.boards import identity, read_rows, slug
from benchmark.records import COLUMNS, Row
from benchmark.runs import read_about
from benchmark.threats import THREATS
from benchmark.trust import quoted
from benchmark.writing import is_own, not_own

FILES = ("run.json", "records.csv", "outside.json")
"""What is kept of a run; the last only where images were handed in."""

PLUGINS = "plugins"
"""The folder, in that of a published run, of the plugin files that lie outside of the repository."""

_PIPELINE = ("dataset", "target", "target_config", "defense", "defense_config")
_ATTACK = (
    *("threat", "threat_config", "attack", "attack_config", "backend", "targeted", "norm", "eps"),
    *("target_seed", "attack_seed"),
)
_BALL = ("threat", "threat_config", "norm", "eps")


@dataclass(frozen=True)
class Run:
    """A run as it was written, or as it is kept beside published rows.

    `folder` holds its files; reading them raises UserError where they are none.
    """

    folder: Path

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """The `run.json`."""
        path = self.folder / "run.json"
        if not path.is_file():
            raise UserError(f"no run in {self.folder}: there is no run.json")
        if not is_own(path):
            raise not_own(path)
        told = read_about(self.folder)
        if not isinstance(told.get("grid"), dict):
            raise UserError(f"{path} is not the run.json of a run: it has no grid")
        return told

    @cached_property
    def records(self) -> Sequence[Row]:
        """The records, with values as numbers, truths and text."""
        rows, problems = read_rows(self.folder / "records.csv", COLUMNS)
        if problems:
            raise UserError(problems)
        return rows

    @cached_property
    def name(self) -> str:
        """The name of the grid with a digest of what the run wrote."""
        parts = [path.read_bytes() for name in FILES if (path := self.folder / name).is_file()]
        return f"{slug(self.about['name'])}-{hashlib.sha256(b''.join(parts)).hexdigest()[:8]}"

    @property
    def commit(self) -> str | None:
        """The commit of the clean tree that made it, if one did."""
        git = self.about.get("git")
        if not isinstance(git, dict) or git.get("dirty") is not False:
            return None
        commit = git.get("commit")
        return commit if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit) else None

    @property
    def schema(self) -> int:
        """What its keys are made of; runs that say nothing are of schema 1, whose keys hashed code."""
        schema = self.about.get("schema", 1)
        return schema if isinstance(schema, int) else 1

    @property
    def mixed_code(self) -> list[str]:
        """The plugins and tasks whose attacks and verdicts in this run were made by more than one code."""
        made = self.about.get("made")
        code = made.get("code") if isinstance(made, dict) else None
        if not isinstance(code, dict):
            return []  # of a run that noted no code
        return sorted(name for name, found in code.items() if not isinstance(found, list) or len(found) > 1)

    @property
    def plugins(self) -> Mapping[str, str]:
        """The plugin files from outside of the repository: SHA-256 by name."""
        found = self.about.get("plugins", {})
        if not isinstance(found, dict):
            raise UserError(f"{self.folder / 'run.json'}: plugins is no mapping")
        for name in found:
            child(self.folder / PLUGINS, name)
        return found

    @property
    def kept_plugins(self) -> list[Path]:
        """The plugin files that were published with it."""
        return sorted((self.folder / PLUGINS).glob("*.py"))

    @property
    def lost(self) -> list[str]:
        """Cells that the run planned and has no record of."""
        try:
            planned = {cell["key"] for cell in self.about["resolved"]["cells"]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / 'run.json'} names no cells: {error!r}") from error
        return sorted(planned - {cell["key"] for cell in self.records})

    def images(self, dataset: str) -> str:
        """The digest of a data set's images."""
        try:
            return str(self.about["resolved"]["datasets"][dataset]["images"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / 'run.json'} has no digest of {dataset}: {error!r}") from error

    def key(self, row: Row) -> str:
        """What a row stands on: its identity and the keys of the cells that count for it."""
        return digest([list(identity(row)), sorted(cell["key"] for cell in self.counting(row))])

    def protocol(self, row: Row) -> str:
        """A digest of the images that a row is of and of the attacks that it met."""
        return digest([self.images(row["dataset"]), sorted(map(list, self.attacks(row)), key=str)])[:16]

    def attacks(self, row: Row) -> set[tuple[Any, ...]]:
        """The attacks that a row met and that can have an image in its ball, with parameters and seeds.

        Those that have no place on its defense, and were skipped, are among them.
        """
        return {
            tuple(cell[name] for name in _ATTACK)
            for cell in self.counting(row)
            if cell["eps"] is None or (cell["norm"] == row["norm"] and cell["eps"] <= row["eps"])
        }

    def counting(self, row: Row) -> list[Row]:
        """The cells of a row's pipeline under its threat and those that it contains."""
        threats = (row["threat"], *THREATS[row["threat"]].nested)
        return [c for c in self.records if _same(c, row, _PIPELINE) and c["threat"] in threats]

    def own(self, row: Row) -> list[Row]:
        """The cells of a row that were attacked in its very ball, as far as they are ok."""
        return [c for c in self.counting(row) if c["status"] == "ok" and _same(c, row, _BALL)]

    def by_seeds(self, row: Row) -> list[list[Row]]:
        """Its own cells for each combination of seeds that a row is the mean over."""

        def drawn(cells: Sequence[Row], training: tuple[Any, Any]) -> set[Any]:
            here = [c for c in cells if (c["target_seed"], c["defense_seed"]) == training]
            return {c["attack_seed"] for c in here} - {None}

        own, counting = self.own(row), self.counting(row)
        trainings = dict.fromkeys((c["target_seed"], c["defense_seed"]) for c in own)
        return [
            [
                c
                for c in own
                if (c["target_seed"], c["defense_seed"]) == t and c["attack_seed"] in (None, seed)
            ]
            for t in trainings
            for seed in drawn(own, t) or drawn(counting, t) or {None}
        ]


RunOf = Callable[[Row], Run]
"""The run that a row rests on."""


def runs_in(folder: Path, *others: Run) -> RunOf:
    """The run that a row rests on, read once for all its rows: one of `others`, or one kept in the folder.

    What is returned raises UserError for a run whose name leads out of the folder.
    """
    known = {run.name: run for run in others}

    @cache
    def named(name: str) -> Run:
        return known.get(name) or Run(child(folder, name))

    return lambda row: named(row["run"])


def _same(cell: Row, row: Row, names: Sequence[str]) -> bool:
    return all(cell[name] == row[name] for name in names)


def plugin_problems(run: Run, given: Sequence[Path]) -> list[Problem]:
    """What stands against plugin files as those that a run was made with."""
    known = {path.name: path for path in given}
    problems = []
    for name, sha in run.plugins.items():
        path = known.get(name)
        if path is None or not path.is_file():
            text = f"the run needed the plugin file {name}, which is not in the repository"
            problems.append(
                Problem(text, hint=f"add it there and run again, or give it with --plugin {quoted(name)}")
            )
        elif not is_own(path):
            problems += not_own(path).problems
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha:
            problems.append(Problem(f"{path} is not the plugin file that the run was made with"))
    return problems
