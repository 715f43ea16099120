"""From a validated grid to resolved blocks: looks up the plugins, files and data sets that a grid names."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.api.attack import Attack
from benchmark.api.dataset import Dataset
from benchmark.api.defense import Defense
from benchmark.api.target import Target
from benchmark.errors import MissingImagesError, UserError, format_exception
from benchmark.files.digests import digest_of_file, linked
from benchmark.plan.cells import AttackEntry
from benchmark.plan.dataset_access import own_places, watched
from benchmark.plan.dataset_classes import empty_classes
from benchmark.plan.grid import Block, Grid, GridDefense, GridEntry
from benchmark.plan.plan import DefenseEntry, ResolvedBlock, SizedDataset
from benchmark.plan.specs import AttackSpec, ConfigSpec, DatasetSpec, DeclaredFile, DefenseSpec, TargetSpec
from benchmark.plugins.opened_files import watching
from benchmark.plugins.plugin import Config, Norm
from benchmark.plugins.registry import Registry
from benchmark.plugins.trust import NO_TRUST, Trust

_WIDEST_GATE = 0.15
"""The widest gate (clean error that training may add to a defense) that a plugin may declare."""


def resolve(
    grid: Grid,
    registry: Registry,
    data: Path,
    trusted: Trust = NO_TRUST,
    *,
    only: Collection[str] = (),
    missing: list[str] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[ResolvedBlock]:
    """Find the images and files that a grid names, with their digests, and read what plugins declare.

    Args:
        grid: A validated grid.
        registry: The known plugins.
        data: Root folder of the data sets.
        trusted: The files and packages whose code may run when a classifier is loaded.
        only: Titles of the data sets to resolve. If the grid has any of them, other data sets need no images.
        missing: Collects the titles of data sets whose images are missing but whose size is known, instead of
            raising an error. Such a plan can be counted but not run.
        warn: Receives a message for each data set that has classes without images.
    """
    return _Resolver(grid.folder, registry, data, trusted, missing, warn).blocks(grid.blocks, only)


@dataclass(frozen=True)
class _OpenedDataset:
    """A data set, and the names of its default source classifier and of substitutes for its targets."""

    spec: DatasetSpec
    source: str | None
    substitutes: Sequence[str]


@dataclass(frozen=True)
class _Resolver:
    """Looks up the plugins, files and data sets that a grid names; opens each file and data set once."""

    folder: Path
    registry: Registry
    data: Path
    trusted: Trust
    missing: list[str] | None
    warn: Callable[[str], None]
    datasets: dict[tuple[str, str], _OpenedDataset] = field(default_factory=dict)
    """Opened data sets by name and configuration."""
    digests: dict[Path, str] = field(default_factory=dict)

    def blocks(self, blocks: Sequence[Block], only: Collection[str]) -> list[ResolvedBlock]:
        return [self._block(block) for block in self._selected(blocks, only)]

    def _selected(self, blocks: Sequence[Block], only: Collection[str]) -> Sequence[Block]:
        """The blocks with the data sets `only`; all blocks if none has one, for an error that lists them."""

        def select(block: Block) -> Block:
            kept = tuple(entry for entry in block.datasets if self._unopened(entry).title in only)
            return replace(block, datasets=kept)

        return [block for block in map(select, blocks) if block.datasets] or blocks

    def _block(self, block: Block) -> ResolvedBlock:
        sized = []
        sources: dict[str, TargetSpec | None] = {}
        substitutes: dict[str, tuple[TargetSpec, ...]] = {}
        for entry, dataset in [(entry, self._opened(entry)) for entry in block.datasets]:
            spec, n = dataset.spec, entry.n
            if n is not None and n > spec.test_size:
                raise UserError(f"dataset {spec.title}: n {n} is more than its {spec.test_size} test images")
            sized.append(SizedDataset(spec, n or spec.test_size))
            sources[spec.title] = None if dataset.source is None else self._named(dataset.source, spec)
            substitutes[spec.title] = tuple(self._named(name, spec) for name in dataset.substitutes)
        return ResolvedBlock(
            datasets=tuple(sized),
            targets=self._targets(block.targets),
            defenses=tuple(self._defense_entry(defense, sized) for defense in block.defenses),
            attacks=tuple(
                AttackEntry(self._attack(e), e.n, None if e.craft_on is None else self._target(e.craft_on))
                for e in block.attacks
            ),
            threats=block.threats,
            target_seeds=block.seeds["target"],
            defense_seeds=block.seeds["defense"],
            attack_seeds=block.seeds["attack"],
            sources=sources,
            substitutes=substitutes,
        )

    def _defense_entry(self, defense: GridDefense, sized: Sequence[SizedDataset]) -> DefenseEntry:
        datasets = [entry.dataset for entry in sized]
        on = {d.title: tuple(self._defense(part, d.name) for part in defense.parts) for d in datasets}
        source = defense.source or "default"
        return DefenseEntry(on, defense.n, self._target(source) if isinstance(source, GridEntry) else source)

    def _common_fields(self, entry: GridEntry) -> dict[str, Any]:
        """The fields that the specs of all kinds of plugins have."""
        return {
            "name": entry.name,
            "version": entry.plugin.version,
            "code": entry.entry.code(),
            "files": self._files(entry),
            **vars(ConfigSpec.of(entry.config)),
        }

    def _files(self, entry: GridEntry) -> dict[str, DeclaredFile]:
        """The files that parameters name, with digests of their content."""
        files = {}
        for name, path in entry.config.located(self.folder).files().items():
            try:
                digest = self.digests.get(path) or digest_of_file(path)
            except OSError as error:
                written = str(entry.config.files()[name])
                raise UserError(
                    f"{entry.entry.kind} {entry.name}: cannot read the file {written!r} of the "
                    f"parameter {name}: {error.strerror}",
                    hint=f"relative paths start at {self.folder}",
                ) from error
            files[name] = DeclaredFile(path, self.digests.setdefault(path, digest))
        return files

    def _target(self, entry: GridEntry) -> TargetSpec:
        assert issubclass(entry.plugin, Target)
        fields, config = self._common_fields(entry), entry.config.located(self.folder)
        with watching("target", entry.plugin, config):
            rests_on = entry.plugin.rests_on(config, self.trusted)
        return TargetSpec(**fields, trainable=entry.plugin.trainable, rests_on=rests_on)

    def _targets(self, entries: Sequence[GridEntry]) -> tuple[TargetSpec, ...]:
        """The classifiers of a block; the problems of all of them are raised together."""
        specs, problems = [], []
        for entry in entries:
            try:
                specs.append(self._target(entry))
            except UserError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        if problems:
            raise UserError(problems)
        return tuple(specs)

    def _opened(self, entry: GridEntry) -> _OpenedDataset:
        identity = (entry.name, entry.config.model_dump_json())
        if identity not in self.datasets:
            self.datasets[identity] = self._dataset(entry)
        return self.datasets[identity]

    def _dataset(self, entry: GridEntry) -> _OpenedDataset:
        """Open a data set, download its images unless they may be missing, and compute their fingerprint."""
        assert issubclass(entry.plugin, Dataset)
        links = {name: str(linked(file.path, file.sha256)) for name, file in self._files(entry).items()}
        config = entry.config.model_copy(update=links)
        with watching("dataset", entry.plugin, config, own=tuple(own_places(config, self.data))):
            dataset: Dataset[Any] = entry.plugin(config, self.data)
        spec = self._unopened(entry)
        try:
            with watched(dataset):
                if self.missing is None:
                    dataset.download()
                dataset.prepare()
        except MissingImagesError:
            if self.missing is None or dataset.test_size is None:
                raise
            self.missing.append(spec.title)
            spec = replace(spec, images="not at hand", test_size=dataset.test_size)
        else:
            with watched(dataset):
                images, test = dataset.fingerprint(), dataset.load_test().labels
                for message in empty_classes(dataset, test):
                    self.warn(
                        f"dataset {spec.title}: {message} (do labels count from 0, and is each one a class?)"
                    )
            spec = replace(spec, images=images, test_size=len(test), class_names=tuple(dataset.class_names))
        return _OpenedDataset(spec, dataset.source, dataset.substitutes)

    def _unopened(self, entry: GridEntry) -> DatasetSpec:
        """The spec of a data set without the fields that depend on its images."""
        return DatasetSpec(**self._common_fields(entry), apart=entry.config.fields_marked("unkeyed"))

    def _named(self, name: str, dataset: DatasetSpec) -> TargetSpec:
        """A target that a data set names, with its default parameters."""
        owner = f"the source classifier of dataset {dataset.title}"
        try:
            entry = self.registry.get("target", name)
        except UserError as error:
            (problem,) = error.problems
            raise UserError(f"{owner}: {problem.message}", hint=problem.hint) from error
        plugin = entry.load()
        try:
            with watching("target", plugin):
                config = plugin.config_type()()
        except ValidationError as error:
            needed = ", ".join(str(part["loc"][0]) for part in error.errors())
            raise UserError(
                f"{owner}: target {name} has no default for {needed}",
                hint="name a target here that can be trained without parameters",
            ) from error
        return self._target(GridEntry(entry, plugin, config))

    def _defense(self, entry: GridEntry, dataset: str) -> DefenseSpec:
        defense = entry.plugin
        assert issubclass(defense, Defense)
        origin = f"defense {entry.name} ({entry.entry.origin})"
        try:
            with watching("defense", defense, entry.config.located(self.folder)):
                config = entry.config.on(dataset)
        except ValidationError as error:
            raise UserError(f"{origin} on {dataset}: {error.errors()[0]['msg']}") from error
        # A field that is not marked `infer` may change the weights. So a missing mark may cause a needless
        # training, but never stale weights.
        train_fields = frozenset(type(config).model_fields) - config.fields_marked("infer")
        try:
            located = config.located(self.folder)
            with watching("defense", defense, located):
                cheaper = defense.in_attack(located)
            in_attack = None if cheaper is None else ConfigSpec.of(cheaper)
        except Exception as error:  # a plugin may raise anything; the message names it
            raise UserError(f"{origin}: in_attack raised {format_exception(error)}") from error
        if cheaper is not None and cheaper.files() != located.files():
            raise UserError(
                f"{origin}: in_attack changes a file; the cheaper setting must name the same files",
                hint="the key of a result contains only the files of the full setting",
            )
        resolved = located.model_dump(mode="json")
        changed = sorted(n for n in train_fields if in_attack and in_attack.config[n] != resolved[n])
        if changed:
            raise UserError(f"{origin}: in_attack changes {', '.join(changed)}, which weights depend on")
        gate = defense.gates.get(dataset, defense.gate)
        if gate > _WIDEST_GATE:
            raise UserError(f"{origin}: a gate of {gate:g} is too wide; the limit is {_WIDEST_GATE:g}")
        return DefenseSpec(
            **self._common_fields(replace(entry, config=config)),
            trainable=defense.trainable,
            stochastic=defense.stochastic,
            control=defense.control,
            is_identity=defense.is_identity,
            decides_label=defense.decides_label,
            inner_optimisation=defense.inner_optimisation,
            surrogates=tuple(defense.surrogates),
            latents=defense.latents,
            gate=gate,
            train_fields=train_fields,
            in_attack=in_attack,
            preset_changed=_preset_changed(config, dataset, train_fields),
        )

    def _attack(self, entry: GridEntry) -> AttackSpec:
        assert issubclass(entry.plugin, Attack)
        origin = f"attack {entry.name} ({entry.entry.origin})"
        try:
            config = entry.config.located(self.folder)
            with watching("attack", entry.plugin, config):
                attack: Attack[Any] = entry.plugin(config)
        except Exception as error:  # the class may be unfinished, and its constructor may raise anything
            raise UserError(f"{origin} cannot be made: {format_exception(error)}") from error
        norms = typing.get_args(Norm)
        if attack.norm not in (None, *norms):
            raise UserError(f"{origin}: norm {attack.norm!r} is not one of {', '.join(norms)}")
        if attack.eps is not None and attack.norm is None:
            raise UserError(f"{origin}: declares eps without a norm")
        return AttackSpec(
            **self._common_fields(entry),
            norm=attack.norm,
            eps=attack.eps,
            uses=attack.uses,
            stochastic=attack.stochastic,
            takes_start=attack.takes_start and attack.backend == "native",
            needs_determinism=attack.needs_determinism,
            needs_latents=attack.needs_latents,
            scalable=attack.scalable and attack.eps is not None,
            single_step=attack.single_step,
            mandatory=attack.mandatory,
            unbounded=_unbounded(attack),
            targeted=attack.targeted,
            trainable=attack.trainable,
            backend=attack.backend,
            weak_backend=attack.weak_backend,
            shares_sweep=attack.shares_sweep,
            sweep_fields=type(entry.config).fields_marked("sweep"),
            train_fields=frozenset(type(entry.config).model_fields) - entry.config.fields_marked("infer"),
        )


def _unbounded(attack: Attack[Any]) -> tuple[ConfigSpec, float] | None:
    if not attack.mandatory or attack.uses != "gradients" or "eps" not in type(attack.config).model_fields:
        return None
    unbounded = attack.unbounded()
    assert unbounded.eps is not None
    return ConfigSpec.of(unbounded.config), unbounded.eps


def _preset_changed(config: Config, dataset: str, train_fields: Iterable[str]) -> bool:
    """Whether a parameter of the training differs from the value that the preset prescribes."""
    if not config.presets:
        return False
    preset = type(config)(**{"preset": config.model_dump()["preset"]}).on(dataset)
    return any(getattr(config, name) != getattr(preset, name) for name in train_fields)
