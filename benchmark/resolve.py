"""From a validated grid to products of references: what the plan needs to know of data and plugins."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from attacks.contract import Attack
from benchmark.cells import ChosenAttack, ThreatRef
from benchmark.datasets.contract import Dataset
from benchmark.datasets.coverage import empty_classes
from benchmark.errors import MissingImagesError, Problem, UserError, told
from benchmark.grid import Block, Choice, Grid
from benchmark.plan import ChosenDefense, Product, SizedDataset
from benchmark.plugin import Config, Norm
from benchmark.refs import AttackRef, DatasetRef, DefenseRef, TargetRef, Unbounded
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
    """Find the images of every data set, fingerprint images and code, and take down the plugins' facts.

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
    datasets: _Opened = {}
    products = []
    for block in _of_interest(grid.blocks, only):
        for choice in block.datasets:
            identity = (choice.entry.name, choice.config.model_dump_json())
            if identity not in datasets:
                datasets[identity] = _dataset(choice, data, absent, warn)
        products.append(_product(block, datasets, registry, trusted))
    return products


def _of_interest(blocks: Sequence[Block], only: Collection[str]) -> Sequence[Block]:
    """The blocks with those data sets; all where there is none, for a message to name what there is."""
    kept = [
        replace(block, datasets=tuple(choice for choice in block.datasets if _unopened(choice).title in only))
        for block in blocks
    ]
    return [block for block in kept if block.datasets] or blocks


def _product(block: Block, datasets: _Opened, registry: Registry, trusted: Collection[Path]) -> Product:
    sized = []
    sources: dict[str, TargetRef | None] = {}
    substitutes: dict[str, tuple[TargetRef, ...]] = {}
    for choice in block.datasets:
        ref, source, others = datasets[choice.entry.name, choice.config.model_dump_json()]
        if choice.n is not None and choice.n > ref.test_size:
            raise UserError(
                Problem(f"dataset {ref.title}: n {choice.n} is more than its {ref.test_size} test images")
            )
        sized.append(SizedDataset(ref, choice.n or ref.test_size))
        sources[ref.title] = None if source is None else _suited(source, ref, registry)
        substitutes[ref.title] = tuple(_suited(name, ref, registry) for name in others)
    return Product(
        datasets=tuple(sized),
        targets=_targets(block.targets, trusted),
        defenses=tuple(
            ChosenDefense(
                {
                    entry.dataset.title: tuple(_defense(part, entry.dataset.name) for part in choice.parts)
                    for entry in sized
                },
                choice.n,
                _source(choice.source, trusted),
            )
            for choice in block.defenses
        ),
        attacks=tuple(
            ChosenAttack(
                _attack(choice), choice.n, _target(choice.craft_on, trusted) if choice.craft_on else None
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


def _basics(choice: Choice) -> dict[str, Any]:
    return {
        "name": choice.entry.name,
        "config": choice.config.model_dump(mode="json"),
        "code": choice.entry.fingerprint(),
    }


def _target(choice: Choice, trusted: Collection[Path] = ()) -> TargetRef:
    assert issubclass(choice.plugin, Target)
    return TargetRef(
        **_basics(choice),
        trainable=choice.plugin.trainable,
        rests_on=choice.plugin.rests_on(choice.config, trusted),
    )


def _targets(choices: Sequence[Choice], trusted: Collection[Path]) -> tuple[TargetRef, ...]:
    """The classifiers of a block; what is wrong with any of them is shown at once."""
    found, problems = [], []
    for choice in choices:
        try:
            found.append(_target(choice, trusted))
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise UserError(problems)
    return tuple(found)


def _source(
    source: Choice | Literal["target", "default"] | None, trusted: Collection[Path]
) -> TargetRef | Literal["default", "target"]:
    return _target(source, trusted) if isinstance(source, Choice) else source or "default"


def _dataset(
    choice: Choice, data: Path, absent: list[str] | None, warn: Callable[[str], None]
) -> tuple[DatasetRef, str | None, Sequence[str]]:
    """The data set, and the names of its default source classifier and of targets that suit it."""
    assert issubclass(choice.plugin, Dataset)
    opened: Dataset[Any] = choice.plugin(choice.config, data)
    ref = _unopened(choice)
    if absent is None:
        opened.download()
    try:
        opened.prepare()
    except MissingImagesError:
        if absent is None or opened.test_size is None:
            raise
        absent.append(ref.title)
        ref = replace(ref, images="not at hand", test_size=opened.test_size)
    else:
        test = opened.load_test().labels
        ref = replace(
            ref,
            images=opened.fingerprint(),
            test_size=len(test),
            class_names=tuple(opened.class_names),
        )
        for message in empty_classes(opened, test):
            warn(f"dataset {ref.title}: {message} (do labels count from 0, and is each one a class?)")
    return ref, opened.source, opened.substitutes


def _unopened(choice: Choice) -> DatasetRef:
    """A data set as far as it is known without its images."""
    return DatasetRef(
        **_basics(choice),
        changed=choice.config.model_dump(mode="json", exclude_defaults=True),
        apart=choice.config.fields_marked("apart"),
    )


def _suited(name: str, dataset: DatasetRef, registry: Registry) -> TargetRef:
    """A target that a data set names, with its default parameters."""
    try:
        entry = registry.get("target", name)
    except UserError as error:
        (problem,) = error.problems
        message = f"the source classifier of dataset {dataset.title}: {problem.message}"
        raise UserError(message, hint=problem.hint) from error
    plugin = entry.load()
    try:
        config = plugin.config_type()()
    except ValidationError as error:
        needed = ", ".join(str(part["loc"][0]) for part in error.errors())
        raise UserError(
            f"the source classifier of dataset {dataset.title}: target {name} has no default for {needed}",
            hint="name a target here that can be trained without parameters",
        ) from error
    return _target(Choice(entry, plugin, config))


def _unbounded(attack: Attack[Any]) -> Unbounded | None:
    if not attack.mandatory or attack.uses != "gradients" or "eps" not in type(attack.config).model_fields:
        return None
    everywhere = attack.unbounded()
    assert everywhere.eps is not None
    return Unbounded(everywhere.config.model_dump(mode="json"), everywhere.eps)


def _defense(choice: Choice, dataset: str) -> DefenseRef:
    defense = choice.plugin
    assert issubclass(defense, Defense)
    origin = f"defense {choice.entry.name} ({choice.entry.origin})"
    try:
        config = choice.config.on(dataset)
    except ValidationError as error:
        raise UserError(f"{origin} on {dataset}: {error.errors()[0]['msg']}") from error
    # What is not marked `infer` may change the weights: an unmarked field costs a training, never a lie.
    train_fields = frozenset(type(config).model_fields) - config.fields_marked("infer")
    try:
        cheaper = defense.in_attack(config)
        in_attack = None if cheaper is None else cheaper.model_dump(mode="json")
    except Exception as error:  # whatever a plugin raises, the message names it
        raise UserError(f"{origin}: in_attack raised {told(error)}") from error
    resolved = config.model_dump(mode="json")
    changed = {name for name in train_fields if in_attack is not None and in_attack[name] != resolved[name]}
    if changed:
        raise UserError(f"{origin}: in_attack changes {', '.join(sorted(changed))}, which weights depend on")
    gate = defense.gates.get(dataset, defense.gate)
    if gate > _WIDEST_GATE:
        raise UserError(f"{origin}: a gate of {gate:g} is no gate; the widest is {_WIDEST_GATE:g}")
    return DefenseRef(
        **_basics(replace(choice, config=config)),
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


def _preset_changed(config: Config, dataset: str, train_fields: Iterable[str]) -> bool:
    """Whether the training is another one than the preset of that name prescribes."""
    if not config.presets:
        return False
    pure = type(config)(**{"preset": config.model_dump()["preset"]}).on(dataset)
    return any(getattr(config, name) != getattr(pure, name) for name in train_fields)


def _attack(choice: Choice) -> AttackRef:
    assert issubclass(choice.plugin, Attack)
    origin = f"attack {choice.entry.name} ({choice.entry.origin})"
    try:
        attack: Attack[Any] = choice.plugin(choice.config)
    except Exception as error:  # an unfinished class, or whatever its constructor raises
        raise UserError(f"{origin} cannot be made: {told(error)}") from error
    if attack.norm not in (None, *typing.get_args(Norm)):
        raise UserError(f"{origin}: norm {attack.norm!r} is none of {', '.join(typing.get_args(Norm))}")
    if attack.eps is not None and attack.norm is None:
        raise UserError(f"{origin}: eps without a norm is no ball")
    return AttackRef(
        **_basics(choice),
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
