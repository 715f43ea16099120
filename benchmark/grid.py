"""A grid: what to run, validated as a whole before anything runs.

The vocabulary is in `docs/grid.md`. Every mistake is collected, with its line, and all are shown at once.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from benchmark.errors import Problem, UserError, nearest
from benchmark.file_names import name_fault
from benchmark.opened_files import unwatched, watching
from benchmark.plain_values import unfit
from benchmark.plugin import Config, Plugin
from benchmark.registry import Entry, Registry
from benchmark.threats import ALIASES, THREATS
from benchmark.yaml_lines import Document, PathInDocument, read_yaml

GRIDS = Path(__file__).parent / "grids"
_LISTS = ("datasets", "targets", "defenses", "attacks", "threats")
_BLOCK_KEYS = (*_LISTS, "seeds", "source")
_SEED_KINDS = ("target", "defense", "attack")
# Keys of an entry that are the harness's and not the plugin's.
_OWN_KEYS: dict[str, tuple[str, ...]] = {
    "dataset": ("n",),
    "target": (),
    "defense": (),
    "attack": ("n", "craft_on"),
}
_DEFENSE_KEYS = ("n", "source")


@dataclass(frozen=True)
class Choice:
    """A plugin that a grid names, with its validated parameters and the harness's own keys.

    `craft_on` is the target on which an attack makes its images, where that is not the cell's own.
    """

    entry: Entry
    plugin: type[Plugin[Any]]
    config: Config
    n: int | None = None
    craft_on: Choice | None = None


Source = Choice | Literal["default", "target"]


@dataclass(frozen=True)
class DefenseChoice:
    """Defenses in sequence, mostly one, with the harness's own keys.

    `source` is the classifier that they are trained with: the data set's own, the cell's target, or a
    target that is named; None where the entry leaves it to the grid.
    """

    parts: tuple[Choice, ...]
    n: int | None = None
    source: Source | None = None


@dataclass(frozen=True)
class ThreatChoice:
    """A threat that a grid names, with its validated parameters."""

    name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """One product: every combination of its members is a cell."""

    datasets: tuple[Choice, ...]
    targets: tuple[Choice, ...]
    defenses: tuple[DefenseChoice, ...]
    attacks: tuple[Choice, ...]
    threats: tuple[ThreatChoice, ...]
    seeds: Mapping[str, tuple[int, ...]]

    @property
    def choices(self) -> Iterator[Choice]:
        """All plugins that the block names, also as the source of a defense or in place of a target."""
        yield from (*self.datasets, *self.targets, *self.attacks)
        yield from (attack.craft_on for attack in self.attacks if attack.craft_on is not None)
        for defense in self.defenses:
            yield from defense.parts
            if isinstance(defense.source, Choice):
                yield defense.source


@dataclass(frozen=True)
class Grid:
    """A validated grid; `data` is what was written, `budget` the passes per image that a cell may take.

    `folder` is where the paths of files in it are seen from.
    """

    name: str
    blocks: tuple[Block, ...]
    data: Mapping[str, Any] = field(repr=False)
    budget: int | None = None
    folder: Path = field(default_factory=Path.cwd)

    @property
    def files(self) -> list[tuple[str, Path]]:
        """The files that parameters name, as they are written, each after the plugin and the parameter."""
        return [
            (f"{choice.entry.kind} {choice.entry.name}: {name}", path)
            for block in self.blocks
            for choice in block.choices
            for name, path in choice.config.files().items()
        ]


def builtin_grids() -> list[str]:
    """Names of the built-in grids."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def find_grid(name: str) -> Path:
    """The file of that name, or the built-in grid of that name where there is no such file.

    Raises:
        UserError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    builtin = GRIDS / f"{path.stem if path.suffix in ('.yaml', '.yml') else name}.yaml"
    if path.name == name and builtin.is_file():
        return builtin
    raise UserError(
        f"no grid file {name!r}, and no built-in grid of that name",
        hint=f"built-in grids: {', '.join(builtin_grids())}",
    )


def load_grid(source: str | Path | Mapping[str, Any], registry: Registry, folder: Path | None = None) -> Grid:
    """Read and validate a grid: a file, the name of a built-in one, or a mapping.

    Args:
        source: The grid.
        registry: Where the plugins are.
        folder: Where the paths in it are seen from: by default the folder of its file, and of a mapping the
            working directory.

    Raises:
        UserError: Anything is wrong with it; carries every problem.
    """
    if isinstance(source, Mapping):
        document, default_name, home = Document(source), "grid", Path.cwd()
    else:
        path = find_grid(str(source))
        document, default_name, home = read_yaml(path), path.stem, path.resolve().parent
    return replace(_Reader(document, registry).grid(default_name), folder=folder or home)


class _Reader:
    """Walks a document and collects problems; nothing here raises before the end."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self._document = document
        self._registry = registry
        self._problems: list[Problem] = []

    def grid(self, default_name: str) -> Grid:
        data = self._document.data
        name = data.get("name", default_name)
        if (fault := name_fault(name)) is not None:
            self._wrong(("name",), f"name must be text that can name a folder, got {name!r}: it {fault}")
        if "blocks" in data:
            self._only_keys((), data, ("name", "budget", "blocks"))
            blocks = list(self._blocks(data["blocks"]))
        else:
            self._only_keys((), data, ("name", "budget", "blocks", *_BLOCK_KEYS))
            blocks = [self._block((), data)]
        budget = self._count(("budget",), data.get("budget"))
        if self._problems:
            raise UserError(self._problems)
        return Grid(name, tuple(blocks), data, budget)

    def _wrong(self, path: PathInDocument, message: str, hint: str | None = None) -> None:
        self._problems.append(self._document.problem(path, message, hint))

    def _only_keys(self, path: PathInDocument, data: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                self._wrong((*path, key), f"unknown key {key!r}", nearest(str(key), known))

    def _blocks(self, value: Any) -> Iterator[Block]:
        if not isinstance(value, list):
            self._wrong(("blocks",), f"blocks must be a list of mappings, got {value!r}")
            return
        for i, data in enumerate(value):
            if not isinstance(data, Mapping):
                self._wrong(("blocks", i), f"a block must be a mapping, got {data!r}")
                continue
            self._only_keys(("blocks", i), data, _BLOCK_KEYS)
            yield self._block(("blocks", i), data)

    def _block(self, path: PathInDocument, data: Mapping[str, Any]) -> Block:
        lists = {name: self._list(path, data, name) for name in _LISTS}
        plugins = {
            name: tuple(choice for at, value in lists[name] for choice in self._choices(name[:-1], at, value))
            for name in ("datasets", "targets", "attacks")
        }
        defenses = [choice for at, value in lists["defenses"] for choice in self._defenses(at, value)]
        everywhere = self._source(path, data) or "default"
        return Block(
            datasets=plugins["datasets"],
            targets=plugins["targets"],
            defenses=tuple(replace(d, source=d.source or everywhere) for d in defenses),
            attacks=plugins["attacks"],
            threats=tuple(threat for at, value in lists["threats"] for threat in self._threat(at, value)),
            seeds=self._seeds(path, data.get("seeds", [0])),
        )

    def _list(
        self, path: PathInDocument, data: Mapping[str, Any], name: str
    ) -> list[tuple[PathInDocument, Any]]:
        if name not in data:
            self._wrong(path, f"{name} is missing", f"give a list, e.g. `{name}: [...]`")
            return []
        value = data[name]
        if not isinstance(value, list):
            self._wrong((*path, name), f"{name} must be a list, got {value!r}")
            return []
        if not value:
            self._wrong((*path, name), f"{name} is empty: the grid has no cell")
        return [((*path, name, i), member) for i, member in enumerate(value)]

    def _defenses(self, path: PathInDocument, value: Any) -> Iterator[DefenseChoice]:
        """What one entry of `defenses` stands for: a defense, or a chain of them."""
        own: dict[str, Any] = {}
        if isinstance(value, Mapping):
            own = {key: value[key] for key in _DEFENSE_KEYS if key in value}
            value = {key: member for key, member in value.items() if key not in own}
        n = self._count((*path, "n"), own.get("n"))
        source = self._source(path, own)
        if not (isinstance(value, Mapping) and "chain" in value):
            for choice in self._choices("defense", path, value):
                yield DefenseChoice((choice,), n, source)
            return
        self._only_keys(path, value, ("chain", *_DEFENSE_KEYS))
        members = value["chain"]
        if not isinstance(members, list) or not members:
            self._wrong((*path, "chain"), f"chain must be a list of defenses, got {members!r}")
            return
        links = []
        for i, member in enumerate(members):
            at = (*path, "chain", i)
            for key in ("chain", *_DEFENSE_KEYS):
                if isinstance(member, Mapping) and key in member:
                    self._wrong((*at, key), f"{key} has no place inside a chain")
                    member = {k: v for k, v in member.items() if k != key}
            if member == {}:
                continue
            links.append(list(self._choices("defense", at, member)))
        for parts in itertools.product(*links):
            yield DefenseChoice(parts, n, source)

    def _choices(self, kind: str, path: PathInDocument, value: Any) -> Iterator[Choice]:
        """The choices that one entry stands for: several where it sweeps a field."""
        name, given = self._name_and_rest(kind, path, value)
        if name is None:
            return
        try:
            entry = self._registry.get(kind, name)
            plugin = entry.load()
        except UserError as error:
            for problem in error.problems:
                if problem.file is not None:
                    self._problems.append(problem)  # the fault is in the plugin's file, not here
                    continue
                at = path if isinstance(value, str) else (*path, "name")
                self._wrong(at, problem.message, problem.hint)
            return
        reserved = ("chain", *_DEFENSE_KEYS) if kind == "defense" else _OWN_KEYS[kind]
        taken = set(reserved) & set(plugin.config_type().model_fields)
        if taken:
            self._wrong(path, f"{kind} {name} has parameters named like the grid's own keys: {sorted(taken)}")
            return
        own = {key: given.pop(key) for key in _OWN_KEYS[kind] if key in given}
        n = self._count((*path, "n"), own.get("n"))
        bases: list[Choice | None] = [None]
        if "craft_on" in own:
            bases = list(self._choices("target", (*path, "craft_on"), own["craft_on"]))
        for parameters in self._swept(path, plugin.config_type(), given):
            declared = plugin.config_type().named_in(parameters)
            # where a data set may look depends on its root; it is watched when it is opened
            with unwatched() if kind == "dataset" else watching(kind, plugin, own=declared):
                config = self._config(kind, name, plugin.config_type(), path, parameters)
            if config is not None:
                yield from (Choice(entry, plugin, config, n, base) for base in bases)

    def _name_and_rest(
        self, kind: str, path: PathInDocument, value: Any
    ) -> tuple[str | None, dict[str, Any]]:
        if isinstance(value, str):
            return value, {}
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            strange = [key for key in value if not isinstance(key, str)]
            if strange:
                self._wrong((*path, strange[0]), f"parameter names are text, got {strange[0]!r}")
                return None, {}
            return value["name"], {k: v for k, v in value.items() if k != "name"}
        article = "an" if kind[0] in "aeiou" else "a"
        self._wrong(
            path, f"{article} {kind} is a name, or a mapping with a name and parameters; got {value!r}"
        )
        return None, {}

    def _swept(
        self, path: PathInDocument, config: type[Config], given: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        lists = {k: v for k, v in given.items() if isinstance(v, list) and k in config.fields_marked("sweep")}
        if not lists:
            yield given
            return
        if len(lists) > 1:
            self._wrong(path, f"only one field can be a list, got {', '.join(lists)}")
            return
        ((field_name, members),) = lists.items()
        if not members:
            self._wrong((*path, field_name), f"{field_name} is an empty list")
        for member in members:
            yield given | {field_name: member}

    def _config(
        self, kind: str, name: str, config: type[Config], path: PathInDocument, given: dict[str, Any]
    ) -> Config | None:
        faults = {key: why for key, value in given.items() if (why := unfit(value)) is not None}
        # A number that is not finite is the field's own to refuse, where that has bounds.
        try:
            made = config(**given)
        except ValidationError as error:
            for detail in error.errors():
                self._explain(f"{kind} {name}", config, path, given, dict(detail))
            return None
        for key, why in faults.items():
            self._wrong((*path, key), f"{kind} {name}: {key} {why}")
        return None if faults else made

    def _explain(
        self,
        owner: str,
        config: type[Config],
        path: PathInDocument,
        given: Mapping[str, Any],
        detail: dict[str, Any],
    ) -> None:
        place = detail["loc"]
        fields: Mapping[str, FieldInfo] = config.model_fields
        while len(place) > 1 and (inside := _fields_inside(fields, place[0])) is not None:
            # the fault is within a parameter that is a mapping of its own
            owner, path, given, fields = f"{owner}: {place[0]}", (*path, place[0]), given[place[0]], inside
            place = place[1:]
        place = place[:1]
        key = place[0] if place else ""
        known = ", ".join(fields) or "none"
        if detail["type"] == "extra_forbidden":
            self._wrong((*path, key), f"{owner} has no parameter {key!r}", f"its parameters: {known}")
        elif detail["type"] == "missing":
            self._wrong(path, f"{owner} needs {key!r}", f"its parameters: {known}")
        else:
            problem = detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "model_type":  # pydantic would name a class that nobody has heard of
                problem = f"must be a mapping of {', '.join(_fields_inside(fields, key) or ())}"
            shown = f"{key} = {given[key]!r}: " if key in given else ""
            self._wrong((*path, *place), f"{owner}: {shown}{problem}")

    def _threat(self, path: PathInDocument, value: Any) -> Iterator[ThreatChoice]:
        name, given = self._name_and_rest("threat", path, value)
        if name is None:
            return
        name = ALIASES.get(name, name)
        if name not in THREATS:
            at = path if isinstance(value, str) else (*path, "name")
            self._wrong(at, f"unknown threat {name!r}", nearest(name, [*THREATS, *ALIASES]))
            return
        config = self._config("threat", name, THREATS[name].config_type, path, given)
        if config is not None:
            yield ThreatChoice(name, config.model_dump())

    def _source(self, path: PathInDocument, data: Mapping[str, Any]) -> Source | None:
        if "source" not in data:
            return None
        value = data["source"]
        if value == "target" or value == "default":
            return value  # type: ignore[no-any-return]
        names = self._registry.names("target")
        if isinstance(value, Mapping) or value in names:
            return next(self._choices("target", (*path, "source"), value), None)
        told = f"source must be 'default', 'target' or the name of a target, got {value!r}"
        self._wrong((*path, "source"), told, nearest(str(value), names))
        return None

    def _count(self, path: PathInDocument, value: Any) -> int | None:
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        self._wrong(path, f"{path[-1]} must be a whole number above 0, got {value!r}")
        return None

    def _seeds(self, path: PathInDocument, value: Any) -> dict[str, tuple[int, ...]]:
        lists = value if isinstance(value, Mapping) else dict.fromkeys(_SEED_KINDS, value)
        if isinstance(value, Mapping):
            self._only_keys((*path, "seeds"), value, _SEED_KINDS)
        seeds: dict[str, tuple[int, ...]] = {}
        for kind in _SEED_KINDS:
            members = lists.get(kind, [0])
            good = isinstance(members, list) and all(type(m) is int and 0 <= m < 2**31 for m in members)
            if not good or not members:
                at = (*path, "seeds", kind) if isinstance(value, Mapping) else (*path, "seeds")
                self._wrong(at, f"seeds must be lists of whole numbers from 0, got {members!r}")
                if not isinstance(value, Mapping):
                    break
                continue
            seeds[kind] = tuple(dict.fromkeys(members))
        return seeds


def _fields_inside(fields: Mapping[str, FieldInfo], name: Any) -> Mapping[str, FieldInfo] | None:
    """The fields of a parameter that is a mapping of its own; None for any other."""
    if name not in fields:
        return None
    annotation = fields[name].annotation
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind.model_fields
    return None
