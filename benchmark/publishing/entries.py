"""From a run to the rows that may be published of it, or all that speaks against them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError, nearest
from benchmark.evidence import grouped
from benchmark.flags import FLAGS, is_doubt
from benchmark.keys import canonical, digest
from benchmark.leaderboard import COLUMNS as LEADERBOARD_COLUMNS
from benchmark.leaderboard import withholds
from benchmark.publishing.boards import contest, identity, read_rows, slug
from benchmark.records import Row
from benchmark.registry import KINDS, Registry
from benchmark.runs import read_about, read_records
from benchmark.threats import THREATS

FILES = ("run.json", "records.csv", "outside.json")
"""What is kept of a run that published rows rest on; the last only where images were handed in."""

_PIPELINE = ("dataset", "target", "target_config", "defense", "defense_config")
_ATTACK = ("threat", "threat_config", "attack", "attack_config", "backend", "targeted", "norm", "eps")
_FEW_SEEDS = 3


@dataclass(frozen=True)
class Run:
    """What published rows rest on: the `run.json` and the records of a run."""

    folder: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        return read_about(self.folder)

    @cached_property
    def records(self) -> list[Row]:
        frame = read_records(self.folder).astype(object)
        rows: list[Row] = frame.where(frame.notna(), None).to_dict("records")
        return rows

    @cached_property
    def name(self) -> str:
        """The name of the grid with a digest of what the run wrote."""
        parts = [(self.folder / name).read_bytes() for name in FILES if (self.folder / name).is_file()]
        return f"{slug(self.about['name'])}-{hashlib.sha256(b''.join(parts)).hexdigest()[:8]}"

    @property
    def commit(self) -> str | None:
        """The commit of the clean tree that made it, if one did."""
        git = self.about.get("git") or {}
        return None if git.get("dirty", True) else git.get("commit")

    def key(self, row: Row) -> str:
        """What a row stands on: its identity and the keys of the cells that count for it."""
        return digest([list(identity(row)), sorted(cell["key"] for cell in self.cells(row))])

    def protocol(self, row: Row) -> str:
        """The images and the attacks that everything in a row's contest met."""
        datasets = self.about.get("resolved", {}).get("datasets", {})
        images = datasets.get(row["dataset"], {}).get("images")
        return digest([images, sorted(map(list, self.attacks(row)), key=str)])[:16]

    def attacks(self, row: Row) -> set[tuple[Any, ...]]:
        """Every attack of the run that can have an image in the ball of a row, with its parameters."""
        return {
            tuple(cell[name] for name in _ATTACK)
            for cell in self.records
            if all(cell[name] == row[name] for name in _PIPELINE[:3])
            and cell["threat"] in _threats(row)
            and (cell["eps"] is None or (cell["norm"] == row["norm"] and cell["eps"] <= row["eps"]))
        }

    def cells(self, row: Row) -> list[Row]:
        return [
            cell
            for cell in self.records
            if all(cell[name] == row[name] for name in _PIPELINE) and cell["threat"] in _threats(row)
        ]


def _threats(row: Row) -> tuple[str, ...]:
    return (row["threat"], *THREATS[row["threat"]].nested)


def entries(folder: Path, explained: Mapping[str, str], registry: Registry) -> list[Row]:
    """The rows of a run as they would stand on the published leaderboard, without ranks.

    Args:
        folder: The folder of the run.
        explained: A text for each doubt that its rows have.
        registry: To know the controls.

    Raises:
        UserError: All that speaks against publishing them.
    """
    run = Run(folder)
    rows, problems = read_rows(folder / "leaderboard.csv", LEADERBOARD_COLUMNS)
    if not problems:
        problems = [Problem(text, hint=hint) for text, hint in _objections(run, rows, explained, registry)]
    if problems:
        raise UserError(problems)
    return [
        row
        | {"explained": explanation(row, explained), "protocol": run.protocol(row)}
        | {"run": run.name, "commit": run.commit, "key": run.key(row)}
        for row in rows
    ]


def explanation(row: Row, explained: Mapping[str, str]) -> str | None:
    """The texts for a row's doubts as JSON, by the doubt; None where it has none."""
    texts = {flag: explained[flag] for flag in doubts(row)}
    return json.dumps(texts, ensure_ascii=False) if texts else None


def doubts(row: Row) -> list[str]:
    """The flags that take a row's rank away."""
    return [flag for flag in (row["flags"] or "").split() if withholds(flag)]


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What is no reason to refuse the rows, and should be known."""
    few = sum(row["seeds"] < _FEW_SEEDS for row in rows if not row["control"])
    if few:
        yield f"note: {few} rows rest on fewer than {_FEW_SEEDS} combinations of seeds; see their `seeds`"


_Objection = tuple[str, str]


def _objections(
    run: Run, rows: Sequence[Row], explained: Mapping[str, str], registry: Registry
) -> Iterator[_Objection]:
    if not rows:
        yield "the leaderboard of the run has no rows", "attacks with an `eps` make some"
    yield from _unclean(run)
    for cell in run.records:
        if cell["status"] not in ("ok", "skipped"):
            reason = str(cell["reason"] or "").partition("\n")[0]
            yield (
                f"cell {cell['key'][:12]} ({_told(cell)}) is {cell['status']}: {reason}",
                "mend it, run again",
            )
    yield from _unexplained(rows, explained)
    for row in rows:
        for name in ("n", "judge"):
            if not row[name]:
                yield f"the row of {_told(row)} does not say its {name}", "run the grid again"
    for group in grouped(rows, contest):
        yield from _uncontrolled(group, registry)
        sizes = {row["n"] for row in group if row["bound"] == "found"}
        if len(sizes) > 1:
            yield f"ranked rows of {_told(group[0])} are of {sorted(sizes)} images", "run the grid again"


def _unclean(run: Run) -> Iterator[_Objection]:
    git = run.about.get("git")
    if not git:
        yield (
            "run.json names no commit: nobody can tell which code made it",
            "run it in a clone of the repository",
        )
    elif git.get("dirty", True):
        yield "the tree had changes that are in no commit", "commit them, and run the grid again"


def _unexplained(rows: Sequence[Row], explained: Mapping[str, str]) -> Iterator[_Objection]:
    raised: dict[str, list[Row]] = {}
    for row in rows:
        for flag in doubts(row):
            raised.setdefault(flag, []).append(row)
    for flag, members in raised.items():
        if not explained.get(flag, "").strip():
            named = ", ".join(dict.fromkeys(row["defense"] for row in members))
            hint = f'say why with --explain {flag}="…": {FLAGS[flag].raised_if}'
            yield f"{len(members)} rows are in doubt, {flag} ({named}), and nothing explains it", hint
    for flag in explained:
        if flag not in raised:
            known = FLAGS if flag not in FLAGS or not is_doubt(flag) else raised
            yield f"--explain {flag}: no row has that doubt", nearest(flag, known) or ""


def _uncontrolled(group: Sequence[Row], registry: Registry) -> Iterator[_Objection]:
    """Controls that are missing in a contest, or were run with other settings than the fixed ones."""
    there = {(row["defense"], row["defense_config"]) for row in group if row["control"]}
    missing = [name for name, config in controls(registry).items() if (name, config) not in there]
    if missing:
        row = group[0]
        where = f"{row['dataset']}, {row['target']}, {row['threat']}, {row['norm']} {row['eps']:g}"
        yield f"{where}: no control {', '.join(missing)}", "name them among the grid's defenses, as they are"


def controls(registry: Registry) -> dict[str, str]:
    """The harness's own placebos, each with its parameters as the records have them."""
    found = {}
    for entry in registry.entries("defense"):
        plugin = entry.load()
        if getattr(plugin, "control", False) and plugin.__module__.startswith(f"{KINDS['defense']}."):
            found[entry.name] = canonical(plugin.config_type()().model_dump(mode="json"))
    return found


def _told(row: Row) -> str:
    parts = [row[name] for name in ("dataset", "target", "defense", "attack", "threat") if row.get(name)]
    return ", ".join(map(str, parts))
