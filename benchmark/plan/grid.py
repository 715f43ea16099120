"""A grid: the experiments to run. It is validated completely before anything runs.

`docs/grid.md` describes the keys. All mistakes are collected, each with its line, and shown together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import Problem, UserError, nearest
from benchmark.files.names import name_fault
from benchmark.plan.cells import ThreatSpec
from benchmark.plan.parameters import validate_parameters
from benchmark.plan.tasks import TASK_TYPES
from benchmark.plan.threats import ALIASES, THREATS
from benchmark.plan.yaml_lines import Document, PathInDocument, read_yaml
from benchmark.plugins.opened_files import unwatched, watching
from benchmark.plugins.plugin import Config, Plugin, Resources
from benchmark.plugins.registry import KINDS, Entry, Registry

GRIDS = Path(__file__).parents[1] / "grids"
_LISTS = ("datasets", "targets", "defenses", "attacks", "threats")
_FILE_KEYS = ("name", "budget", "resources")
_BLOCK_KEYS = (*_LISTS, "seeds", "source")
_SEED_KINDS = ("target", "defense", "attack")
# Keys of an entry that belong to the harness and not to the plugin.
_HARNESS_KEYS = {"dataset": ("n",), "target": (), "defense": (), "attack": ("n", "craft_on")}
_DEFENSE_KEYS = ("n", "source")


@dataclass(frozen=True)
class GridEntry:
    """A plugin that a grid names, with its validated parameters and the keys of the harness.

    `n` limits the images. `craft_on` is the target on which an attack makes its images, if it is not the
    target of the cell.
    """

    entry: Entry
    plugin: type[Plugin[Any]]
    config: Config
    n: int | None = None
    craft_on: GridEntry | None = None

    @property
    def name(self) -> str:
        return self.entry.name


Source = GridEntry | Literal["default", "target"]


@dataclass(frozen=True)
class GridDefense:
    """One defense or several in sequence, with the keys of the harness.

    `source` is the classifier that they are trained with: the default of the data set, the target of the
    cell, or a named target. If it is None, the setting of the block applies.
    """

    parts: tuple[GridEntry, ...]
    n: int | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Block:
    """One block of a grid: every combination of its members is a cell."""

    datasets: tuple[GridEntry, ...]
    targets: tuple[GridEntry, ...]
    defenses: tuple[GridDefense, ...]
    attacks: tuple[GridEntry, ...]
    threats: tuple[ThreatSpec, ...]
    seeds: Mapping[str, tuple[int, ...]]

    @property
    def entries(self) -> Iterator[GridEntry]:
        """All plugins that the block names, also as the source of a defense or as `craft_on` of an attack."""
        yield from (*self.datasets, *self.targets, *self.attacks)
        yield from (attack.craft_on for attack in self.attacks if attack.craft_on is not None)
        for defense in self.defenses:
            yield from defense.parts
            if isinstance(defense.source, GridEntry):
                yield defense.source


@dataclass(frozen=True)
class Grid:
    """A validated grid.

    `data` is the mapping as written. `budget` limits the passes per image that a cell may use.
    Relative paths of files in the grid start at `folder`. `resources` replace what plugins declare, by the
    name of a plugin or of a kind of task.
    """

    name: str
    blocks: tuple[Block, ...]
    data: Mapping[str, Any] = field(repr=False)
    budget: int | None = None
    folder: Path = field(default_factory=Path.cwd)
    resources: Mapping[str, Resources] = field(default_factory=dict)

    @property
    def files(self) -> list[tuple[str, Path]]:
        """The files that parameters name, with paths as written, each after its plugin and parameter."""
        return [
            (f"{entry.entry.kind} {entry.name}: {name}", path)
            for block in self.blocks
            for entry in block.entries
            for name, path in entry.config.files().items()
        ]


def builtin_grids() -> list[str]:
    """Names of the built-in grids."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def find_grid(name: str) -> Path:
    """The file of that name, or else the built-in grid of that name; a `UserError` if neither exists."""
    path = Path(name)
    if path.is_file():
        return path
    builtin = GRIDS / f"{path.stem if path.suffix in ('.yaml', '.yml') else name}.yaml"
    if path.name == name and builtin.is_file():
        return builtin
    close = nearest(path.stem, builtin_grids()) if path.name == name else ""
    raise UserError(
        f"there is no grid file {name!r}"
        + (" and no built-in grid of that name" if path.name == name else ""),
        hint=close if close.startswith("did you mean") else "`bench list grids` shows the built-in grids",
    )


def load_grid(source: str | Path | Mapping[str, Any], registry: Registry, folder: Path | None = None) -> Grid:
    """Read and validate a grid: a file, the name of a built-in one, or a mapping.

    Relative paths in the grid start at `folder`. The default is the folder of its file, or the working
    directory if the grid is a mapping. If the grid is invalid, the `UserError` carries every problem.
    """
    if isinstance(source, Mapping):
        document, default_name, default_folder = Document(source), "grid", Path.cwd()
    else:
        path = find_grid(str(source))
        document, default_name, default_folder = read_yaml(path), path.stem, path.resolve().parent
    return replace(_GridReader(document, registry).read(default_name), folder=folder or default_folder)


class _GridReader:
    """Reads a document and collects problems; no method raises before the whole document is read."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self._document = document
        self._registry = registry
        self._problems: list[Problem] = []

    def read(self, default_name: str) -> Grid:
        data = self._document.data
        name = data.get("name", default_name)
        if (fault := name_fault(name)) is not None:
            self._report(("name",), f"name must be text that can name a folder, got {name!r}: it {fault}")
        resources = dict(self._resources(data.get("resources", {})))
        if "blocks" in data:
            self._only_keys((), data, (*_FILE_KEYS, "blocks"))
            blocks = list(self._blocks(data["blocks"]))
        else:
            self._only_keys((), data, (*_FILE_KEYS, "blocks", *_BLOCK_KEYS))
            blocks = [self._block((), data)]
        budget = self._count(("budget",), data.get("budget"))
        if self._problems:
            raise UserError(self._problems)
        return Grid(name, tuple(blocks), data, budget, resources=resources)

    def _report(self, path: PathInDocument, message: str, hint: str | None = None) -> None:
        self._problems.append(self._document.problem(path, message, hint))

    def _only_keys(self, path: PathInDocument, data: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                self._report((*path, key), f"unknown key {key!r}", nearest(str(key), known))

    def _resources(self, value: Any) -> Iterator[tuple[str, Resources]]:
        if not isinstance(value, Mapping):
            self._report(("resources",), f"resources must be a mapping, got {value!r}")
            return
        known = {str(task_type.kind) for task_type in TASK_TYPES}
        known.update(name for kind in KINDS for name in self._registry.names(kind))
        for name, needs in value.items():
            path, owner = ("resources", name), f"resources of {name}"
            if name not in known:
                message = f"resources are given for plugins and kinds of tasks, and {name!r} is neither"
                self._report(path, message, nearest(str(name), sorted(known)))
            elif not isinstance(needs, Mapping):
                self._report(path, f"{name} must be a mapping, e.g. {{memory: 4}}, got {needs!r}")
            else:
                found = validate_parameters(owner, Resources, path, dict(needs), self._report)
                if found is not None:
                    yield name, found

    def _blocks(self, value: Any) -> Iterator[Block]:
        if not isinstance(value, list):
            self._report(("blocks",), f"blocks must be a list of mappings, got {value!r}")
            return
        for i, data in enumerate(value):
            if not isinstance(data, Mapping):
                self._report(("blocks", i), f"a block must be a mapping, got {data!r}")
                continue
            self._only_keys(("blocks", i), data, _BLOCK_KEYS)
            yield self._block(("blocks", i), data)

    def _block(self, path: PathInDocument, data: Mapping[str, Any]) -> Block:
        lists = {name: self._list(path, data, name) for name in _LISTS}
        plugins = {
            name: tuple(entry for at, value in lists[name] for entry in self._entries(name[:-1], at, value))
            for name in ("datasets", "targets", "attacks")
        }
        defenses = [defense for at, value in lists["defenses"] for defense in self._defenses(at, value)]
        default_source = self._source(path, data) or "default"
        return Block(
            **plugins,
            defenses=tuple(replace(d, source=d.source or default_source) for d in defenses),
            threats=tuple(threat for at, value in lists["threats"] for threat in self._threat(at, value)),
            seeds=self._seeds(path, data.get("seeds", [0])),
        )

    def _list(
        self, path: PathInDocument, data: Mapping[str, Any], name: str
    ) -> list[tuple[PathInDocument, Any]]:
        """The members of a list, each with its place in the document."""
        if name not in data:
            self._report(path, f"{name} is missing", f"give a list, e.g. `{name}: [...]`")
            return []
        value = data[name]
        if not isinstance(value, list):
            self._report((*path, name), f"{name} must be a list, got {value!r}")
            return []
        if not value:
            self._report((*path, name), f"{name} is empty: the grid has no cell")
        return [((*path, name, i), member) for i, member in enumerate(value)]

    def _defenses(self, path: PathInDocument, value: Any) -> Iterator[GridDefense]:
        """The defenses or chains that one entry of `defenses` describes: several if it sweeps a field."""
        own: dict[str, Any] = {}
        if isinstance(value, Mapping):
            own = {key: value[key] for key in _DEFENSE_KEYS if key in value}
            value = {key: member for key, member in value.items() if key not in own}
        n = self._count((*path, "n"), own.get("n"))
        source = self._source(path, own)
        if isinstance(value, Mapping) and "chain" in value:
            chains = self._chains(path, value)
        else:
            chains = ((entry,) for entry in self._entries("defense", path, value))
        yield from (GridDefense(parts, n, source) for parts in chains)

    def _chains(self, path: PathInDocument, data: Mapping[str, Any]) -> Iterator[tuple[GridEntry, ...]]:
        self._only_keys(path, data, ("chain", *_DEFENSE_KEYS))
        members = data["chain"]
        if not isinstance(members, list) or not members:
            self._report((*path, "chain"), f"chain must be a list of defenses, got {members!r}")
            return
        stages = []
        for i, member in enumerate(members):
            at = (*path, "chain", i)
            for key in ("chain", *_DEFENSE_KEYS):
                if isinstance(member, Mapping) and key in member:
                    self._report((*at, key), f"{key} has no place inside a chain")
                    member = {k: v for k, v in member.items() if k != key}
            if member != {}:
                stages.append(list(self._entries("defense", at, member)))
        yield from itertools.product(*stages)

    def _entries(self, kind: str, path: PathInDocument, value: Any) -> Iterator[GridEntry]:
        """The plugins that one entry describes: several if it sweeps a field."""
        name, params = self._name_and_parameters(kind, path, value)
        if name is None:
            return
        try:
            entry = self._registry.get(kind, name)
            plugin = entry.load()
        except UserError as error:
            at = path if isinstance(value, str) else (*path, "name")
            for problem in error.problems:
                if problem.file is None:
                    self._report(at, problem.message, problem.hint)
                else:  # the fault is in the file of the plugin, not in the grid
                    self._problems.append(problem)
            return
        config_type = plugin.config_type()
        reserved = ("chain", *_DEFENSE_KEYS) if kind == "defense" else _HARNESS_KEYS[kind]
        taken = sorted(set(reserved) & set(config_type.model_fields))
        if taken:
            self._report(path, f"{kind} {name} has parameters named like the grid's own keys: {taken}")
            return
        own = {key: params.pop(key) for key in _HARNESS_KEYS[kind] if key in params}
        n = self._count((*path, "n"), own.get("n"))
        bases: list[GridEntry | None] = [None]
        if "craft_on" in own:
            bases = list(self._entries("target", (*path, "craft_on"), own["craft_on"]))
        for swept in self._swept(path, config_type, params):
            declared = config_type.files_in(swept)
            # The root of the data sets is unknown here; what a data set opens is recorded when it is opened.
            with unwatched() if kind == "dataset" else watching(kind, plugin, own=declared):
                config = validate_parameters(f"{kind} {name}", config_type, path, swept, self._report)
            if config is not None:
                yield from (GridEntry(entry, plugin, config, n, base) for base in bases)

    def _name_and_parameters(
        self, kind: str, path: PathInDocument, value: Any
    ) -> tuple[str | None, dict[str, Any]]:
        if isinstance(value, str):
            return value, {}
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            not_text = [key for key in value if not isinstance(key, str)]
            if not_text:
                self._report((*path, not_text[0]), f"parameter names are text, got {not_text[0]!r}")
                return None, {}
            return value["name"], {k: v for k, v in value.items() if k != "name"}
        article = "an" if kind[0] in "aeiou" else "a"
        self._report(
            path, f"{article} {kind} is a name, or a mapping with a name and parameters; got {value!r}"
        )
        return None, {}

    def _swept(
        self, path: PathInDocument, config_type: type[Config], params: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """The parameters, once for each value of the field that is given as a list."""
        sweepable = config_type.fields_marked("sweep")
        lists = {name: v for name, v in params.items() if name in sweepable and isinstance(v, list)}
        if not lists:
            yield params
        elif len(lists) > 1:
            self._report(path, f"only one field can be a list, got {', '.join(lists)}")
        else:
            ((name, members),) = lists.items()
            if not members:
                self._report((*path, name), f"{name} is an empty list")
            yield from (params | {name: member} for member in members)

    def _threat(self, path: PathInDocument, value: Any) -> Iterator[ThreatSpec]:
        name, params = self._name_and_parameters("threat", path, value)
        if name is None:
            return
        name = ALIASES.get(name, name)
        if name not in THREATS:
            at = path if isinstance(value, str) else (*path, "name")
            self._report(at, f"unknown threat {name!r}", nearest(name, [*THREATS, *ALIASES]))
            return
        config = validate_parameters(f"threat {name}", THREATS[name].config_type, path, params, self._report)
        if config is not None:
            yield ThreatSpec(name, config)

    def _source(self, path: PathInDocument, data: Mapping[str, Any]) -> Source | None:
        if "source" not in data:
            return None
        value = data["source"]
        if value in ("target", "default"):
            return value  # type: ignore[no-any-return]
        names = self._registry.names("target")
        if isinstance(value, Mapping) or value in names:
            return next(self._entries("target", (*path, "source"), value), None)
        message = f"source must be 'default', 'target' or the name of a target, got {value!r}"
        self._report((*path, "source"), message, nearest(str(value), names))
        return None

    def _count(self, path: PathInDocument, value: Any) -> int | None:
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        self._report(path, f"{path[-1]} must be a whole number above 0, got {value!r}")
        return None

    def _seeds(self, path: PathInDocument, value: Any) -> dict[str, tuple[int, ...]]:
        path = (*path, "seeds")
        if not isinstance(value, Mapping):
            return dict.fromkeys(_SEED_KINDS, self._seed_list(path, value))
        self._only_keys(path, value, _SEED_KINDS)
        return {kind: self._seed_list((*path, kind), value.get(kind, [0])) for kind in _SEED_KINDS}

    def _seed_list(self, path: PathInDocument, value: Any) -> tuple[int, ...]:
        if isinstance(value, list) and value and all(type(m) is int and 0 <= m < 2**31 for m in value):
            return tuple(dict.fromkeys(value))
        self._report(path, f"seeds must be lists of whole numbers from 0, got {value!r}")
        return ()
