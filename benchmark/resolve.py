"""From a validated grid to products of references: what the plan needs to know of data and plugins."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from attacks.contract import Attack
from benchmark.cells import ChosenAttack, ThreatRef
from benchmark.datasets.contract import Dataset
from benchmark.datasets.coverage import empty_classes
from benchmark.datasets.watched import own_places, watched
from benchmark.errors import MissingImagesError, Problem, UserError, told
from benchmark.files import digest_of_file, linked
from benchmark.grid import Block, Choice, Grid
from benchmark.opened_files import watching
from benchmark.plan import ChosenDefense, Product, SizedDataset
from benchmark.plugin import Config, Norm
from benchmark.refs import AttackRef, DatasetRef, DeclaredFile, DefenseRef, Parameters, TargetRef, Unbounded
from benchmark.registry import Registry
from defenses.contract import Defense
from targets.contract import Target

_Opened = dict[tuple[str, str], tuple[DatasetRef, str | None, Sequence[str]]]
"""Data sets with the names of their default source classifiers, by name and configuration."""

_WIDEST_GATE = 0.15
"""How much clean error training may add to any defense, whatever its plugin says."""


def resolve(
    grid: Grid,
    registry: Registry,
    data: Path,
    trusted: Collection[Path] = (),
    *,
    only: Collection[str] = (),
    absent: list[str] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[Product]:
    """Find the images and files that a grid names, with their digests, and note what plugins state.

    Args:
        grid: A validated grid.
        registry: Where the plugins are.
        data: Root folder of the data sets.
        trusted: What may run code when a classifier is read: a `Trust`, or files as resolved paths.
        only: Titles of the data sets that matter: where one is among them, others need no images.
        absent: Where to note data sets whose images are missing but whose size is known, in place of an
            error. Such a plan can be counted and not run.
        warn: Gets a message for each data set that has classes without images.

    Raises:
        UserError: Images or a classifier's files are missing, or `n` is more than there are.
    """
    return _Resolver(grid.folder, registry, data, trusted, absent, warn).products(grid.blocks, only)


@dataclass(frozen=True)
class _Resolver:
    """Looks up what a grid names: plugins, files, and data sets; each file and data set once."""

    folder: Path
    registry: Registry
    data: Path
    trusted: Collection[Path]
    absent: list[str] | None
    warn: Callable[[str], None]
    datasets: _Opened = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)

    def products(self, blocks: Sequence[Block], only: Collection[str]) -> list[Product]:
        products = []
        for block in self._of_interest(blocks, only):
            for choice in block.datasets:
                identity = (choice.entry.name, choice.config.model_dump_json())
                if identity not in self.datasets:
                    self.datasets[identity] = self._dataset(choice)
            products.append(self._product(block))
        return products

    def _of_interest(self, blocks: Sequence[Block], only: Collection[str]) -> Sequence[Block]:
        """The blocks with those data sets; all if no block has one, for a message to name what there is."""

        def of_interest(block: Block) -> Block:
            chosen = tuple(one for one in block.datasets if self._unopened(one).title in only)
            return replace(block, datasets=chosen)

        return [block for block in map(of_interest, blocks) if block.datasets] or blocks

    def _product(self, block: Block) -> Product:
        sized = []
        sources: dict[str, TargetRef | None] = {}
        substitutes: dict[str, tuple[TargetRef, ...]] = {}
        for choice in block.datasets:
            ref, source, others = self.datasets[choice.entry.name, choice.config.model_dump_json()]
            if choice.n is not None and choice.n > ref.test_size:
                raise UserError(
                    Problem(f"dataset {ref.title}: n {choice.n} is more than its {ref.test_size} test images")
                )
            sized.append(SizedDataset(ref, choice.n or ref.test_size))
            sources[ref.title] = None if source is None else self._suited(source, ref)
            substitutes[ref.title] = tuple(self._suited(name, ref) for name in others)
        return Product(
            datasets=tuple(sized),
            targets=self._targets(block.targets),
            defenses=tuple(
                ChosenDefense(
                    {
                        entry.dataset.title: tuple(
                            self._defense(part, entry.dataset.name) for part in choice.parts
                        )
                        for entry in sized
                    },
                    choice.n,
                    self._source(choice.source),
                )
                for choice in block.defenses
            ),
            attacks=tuple(
                ChosenAttack(
                    self._attack(choice),
                    choice.n,
                    self._target(choice.craft_on) if choice.craft_on else None,
                )
                for choice in block.attacks
            ),
            threats=tuple(ThreatRef(threat.name, threat.config) for threat in block.threats),
            target_seeds=block.seeds["target"],
            defense_seeds=block.seeds["defense"],
            attack_seeds=block.seeds["attack"],
            sources=sources,
            substitutes=substitutes,
        )

    def _basics(self, choice: Choice) -> dict[str, Any]:
        return {
            "name": choice.entry.name,
            "version": choice.plugin.version,
            "code": choice.entry.code(),
            "files": self._files(choice),
            **vars(_parameters(choice.config)),
        }

    def _files(self, choice: Choice) -> dict[str, DeclaredFile]:
        """The files that parameters name, with the digests of what they hold.

        Raises:
            UserError: One cannot be read.
        """
        found = {}
        for name, path in choice.config.located(self.folder).files().items():
            try:
                digest = self.digests.get(path) or digest_of_file(path)
            except OSError as error:
                written = str(choice.config.files()[name])
                raise UserError(
                    f"{choice.entry.kind} {choice.entry.name}: cannot read the file {written!r} of the "
                    f"parameter {name}: {error.strerror}",
                    hint=f"relative paths are seen from {self.folder}",
                ) from error
            found[name] = DeclaredFile(path, self.digests.setdefault(path, digest))
        return found

    def _target(self, choice: Choice) -> TargetRef:
        assert issubclass(choice.plugin, Target)
        basics, config = self._basics(choice), choice.config.located(self.folder)
        with watching("target", choice.plugin, config):
            rests_on = choice.plugin.rests_on(config, self.trusted)
        return TargetRef(**basics, trainable=choice.plugin.trainable, rests_on=rests_on)

    def _targets(self, choices: Sequence[Choice]) -> tuple[TargetRef, ...]:
        """The classifiers of a block; what is wrong with any of them is shown at once."""
        found, problems = [], []
        for choice in choices:
            try:
                found.append(self._target(choice))
            except UserError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        if problems:
            raise UserError(problems)
        return tuple(found)

    def _source(
        self, source: Choice | Literal["target", "default"] | None
    ) -> TargetRef | Literal["default", "target"]:
        return self._target(source) if isinstance(source, Choice) else source or "default"

    def _dataset(self, choice: Choice) -> tuple[DatasetRef, str | None, Sequence[str]]:
        """The data set, and the names of its default source classifier and of targets that suit it."""
        assert issubclass(choice.plugin, Dataset)
        links = {name: str(linked(file.path, file.sha256)) for name, file in self._files(choice).items()}
        config = choice.config.model_copy(update=links)
        with watching("dataset", choice.plugin, config, own=tuple(own_places(config, self.data))):
            opened: Dataset[Any] = choice.plugin(config, self.data)
        ref = self._unopened(choice)
        if self.absent is None:
            with watched(opened):
                opened.download()
        try:
            with watched(opened):
                opened.prepare()
        except MissingImagesError:
            if self.absent is None or opened.test_size is None:
                raise
            self.absent.append(ref.title)
            ref = replace(ref, images="not at hand", test_size=opened.test_size)
        else:
            with watched(opened):
                images, test = opened.fingerprint(), opened.load_test().labels
                for message in empty_classes(opened, test):
                    self.warn(
                        f"dataset {ref.title}: {message} (do labels count from 0, and is each one a class?)"
                    )
            ref = replace(ref, images=images, test_size=len(test), class_names=tuple(opened.class_names))
        return ref, opened.source, opened.substitutes

    def _unopened(self, choice: Choice) -> DatasetRef:
        """A data set as far as it is known without its images."""
        return DatasetRef(**self._basics(choice), apart=choice.config.fields_marked("apart"))

    def _suited(self, name: str, dataset: DatasetRef) -> TargetRef:
        """A target that a data set names, with its default parameters."""
        try:
            entry = self.registry.get("target", name)
        except UserError as error:
            (problem,) = error.problems
            message = f"the source classifier of dataset {dataset.title}: {problem.message}"
            raise UserError(message, hint=problem.hint) from error
        plugin = entry.load()
        try:
            with watching("target", plugin):
                config = plugin.config_type()()
        except ValidationError as error:
            needed = ", ".join(str(part["loc"][0]) for part in error.errors())
            raise UserError(
                f"the source classifier of dataset {dataset.title}: target {name} has no default for "
                f"{needed}",
                hint="name a target here that can be trained without parameters",
            ) from error
        return self._target(Choice(entry, plugin, config))

    def _defense(self, choice: Choice, dataset: str) -> DefenseRef:
        defense = choice.plugin
        assert issubclass(defense, Defense)
        origin = f"defense {choice.entry.name} ({choice.entry.origin})"
        try:
            with watching("defense", defense, choice.config.located(self.folder)):
                config = choice.config.on(dataset)
        except ValidationError as error:
            raise UserError(f"{origin} on {dataset}: {error.errors()[0]['msg']}") from error
        # What is not marked `infer` may change the weights: an unmarked field costs a training, never a lie.
        train_fields = frozenset(type(config).model_fields) - config.fields_marked("infer")
        try:
            located = config.located(self.folder)
            with watching("defense", defense, located):
                cheaper = defense.in_attack(located)
            in_attack = None if cheaper is None else _parameters(cheaper)
        except Exception as error:  # whatever a plugin raises, the message names it
            raise UserError(f"{origin}: in_attack raised {told(error)}") from error
        if cheaper is not None and cheaper.files() != located.files():
            raise UserError(
                f"{origin}: in_attack changes a file; the cheaper setting must name the same files",
                hint="the key of a result has the content of the files of the full setting alone",
            )
        resolved = located.model_dump(mode="json")
        changed = {name for name in train_fields if in_attack and in_attack.config[name] != resolved[name]}
        if changed:
            raise UserError(
                f"{origin}: in_attack changes {', '.join(sorted(changed))}, which weights depend on"
            )
        gate = defense.gates.get(dataset, defense.gate)
        if gate > _WIDEST_GATE:
            raise UserError(f"{origin}: a gate of {gate:g} is no gate; the widest is {_WIDEST_GATE:g}")
        return DefenseRef(
            **self._basics(replace(choice, config=config)),
            trainable=defense.trainable,
            stochastic=defense.stochastic,
            control=defense.control,
            decides_label=defense.decides_label,
            inner_optimisation=defense.inner_optimisation,
            surrogates=tuple(defense.surrogates),
            latents=defense.latents,
            gate=gate,
            train_fields=train_fields,
            in_attack=in_attack,
            preset_changed=_preset_changed(config, dataset, train_fields),
        )

    def _attack(self, choice: Choice) -> AttackRef:
        assert issubclass(choice.plugin, Attack)
        origin = f"attack {choice.entry.name} ({choice.entry.origin})"
        try:
            config = choice.config.located(self.folder)
            with watching("attack", choice.plugin, config):
                attack: Attack[Any] = choice.plugin(config)
        except Exception as error:  # an unfinished class, or whatever its constructor raises
            raise UserError(f"{origin} cannot be made: {told(error)}") from error
        if attack.norm not in (None, *typing.get_args(Norm)):
            raise UserError(f"{origin}: norm {attack.norm!r} is none of {', '.join(typing.get_args(Norm))}")
        if attack.eps is not None and attack.norm is None:
            raise UserError(f"{origin}: eps without a norm is no ball")
        return AttackRef(
            **self._basics(choice),
            norm=attack.norm,
            eps=attack.eps,
            uses=attack.uses,
            stochastic=attack.stochastic,
            takes_start=attack.takes_start and attack.backend == "native",
            needs_determinism=attack.needs_determinism,
            needs_latents=attack.needs_latents,
            grows=attack.grows and attack.eps is not None,
            single_step=attack.single_step,
            mandatory=attack.mandatory,
            unbounded=_unbounded(attack),
            targeted=attack.targeted,
            trainable=attack.trainable,
            backend=attack.backend,
            weak_backend=attack.weak_backend,
            shares_sweep=attack.shares_sweep,
            sweep_fields=type(choice.config).fields_marked("sweep"),
            train_fields=frozenset(type(choice.config).model_fields) - choice.config.fields_marked("infer"),
        )


def _parameters(config: Config) -> Parameters:
    return Parameters(config.model_dump(mode="json"), config.model_dump(mode="json", exclude_defaults=True))


def _unbounded(attack: Attack[Any]) -> Unbounded | None:
    if not attack.mandatory or attack.uses != "gradients" or "eps" not in type(attack.config).model_fields:
        return None
    everywhere = attack.unbounded()
    assert everywhere.eps is not None
    return Unbounded(_parameters(everywhere.config), everywhere.eps)


def _preset_changed(config: Config, dataset: str, train_fields: Iterable[str]) -> bool:
    """Whether the training is another one than the preset of that name prescribes."""
    if not config.presets:
        return False
    pure = type(config)(**{"preset": config.model_dump()["preset"]}).on(dataset)
    return any(getattr(config, name) != getattr(pure, name) for name in train_fields)
