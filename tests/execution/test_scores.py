"""The strength of attacks does not depend on the unit of a classifier's scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchmark.attacks.bim import Bim, BimConfig
from benchmark.attacks.fgsm import Fgsm, FgsmConfig
from benchmark.attacks.pgd import Pgd, PgdConfig
from torch import Tensor, nn

import benchmark
from benchmark.api.attack import Attack
from benchmark.api.noise import Noise
from benchmark.execution.dispatch import recompute_lost
from benchmark.execution.observer import Silent
from benchmark.execution.pretrained import check_pretrained
from benchmark.execution.score_scale import LARGEST, SMALLEST, scale_for
from benchmark.execution.surfaces import MeteredSurface, make_surface
from benchmark.plan.tasks import Craft
from benchmark.runs import execute_run, plan_run
from studies import REPOSITORY
from tests.attacks.trained_classifiers import digits

PLUGINS = [REPOSITORY / "tests" / "plugin_files" / "scores.py"]
EPS, STEPS = 0.05, 10
STEPPED = {"eps": EPS, "steps": STEPS}
ATTACKS: list[dict[str, Any]] = [
    {"name": "fgsm", "eps": EPS},
    {"name": "bim", **STEPPED},
    {"name": "mim", **STEPPED},
    {"name": "apgd-ce", **STEPPED},
    {"name": "pgd", **STEPPED},
    {"name": "fgsm", "eps": EPS, "backend": "art"},
    {"name": "bim", **STEPPED, "backend": "art"},
    {"name": "bim", **STEPPED, "backend": "foolbox"},
]
UNITS = (1.0, 1e3, 0.1, 1e-6)


def grid(**keys: Any) -> dict[str, Any]:
    return {
        "name": "scores",
        "datasets": [{"name": "digits", "n": 100}],
        "source": "target",
        "defenses": ["identity"],
        "attacks": ATTACKS,
        "threats": ["black-box"],
    } | keys


def unit(value: float, head: str = "linear") -> dict[str, Any]:
    return {"name": "unit", "unit": value, "head": head}


def errors(records: pd.DataFrame) -> pd.DataFrame:
    """The errors in points: a row for each target, a column for each attack on each defense."""
    assert (records["status"] == "ok").all()
    labelled = records.assign(how=records["defense"] + records["attack_config"])
    return 100 * labelled.pivot_table(index="target_config", columns="how", values="error", sort=False)


def flags(records: pd.DataFrame) -> list[set[str]]:
    return [set(str(text).split()) for text in records["flags"].fillna("")]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """One undefended net in several units, and the folder of the run."""
    folder = tmp_path_factory.mktemp("bare")
    targets = [unit(value) for value in UNITS]
    records = benchmark.run(grid(targets=targets), out=folder, store=folder / "store", plugins=PLUGINS)
    return records, folder


def test_attacks_of_every_library_find_as_much_in_any_unit(bare: tuple[pd.DataFrame, Path]) -> None:
    found = errors(bare[0])
    assert (found.iloc[0] > 15).all()
    assert (found - found.iloc[0]).abs().max().max() <= 1


def test_cosines_are_attacked_as_the_scores_that_they_were_trained_as(tmp_path: Path) -> None:
    targets = [unit(1.0, "cosine"), unit(1 / 16, "cosine")]
    records = benchmark.run(grid(targets=targets), out=tmp_path, store=tmp_path / "store", plugins=PLUGINS)
    trained, cosines = errors(records).to_numpy()
    assert (cosines >= trained - 1).all()
    assert all("scaled-scores" in raised for raised in flags(records)[len(ATTACKS) :])


@pytest.mark.parametrize(("defense", "threat"), [("median", "gray-box"), ("autoencoder", "white-box")])
def test_attacks_through_a_defense_find_as_much_in_any_unit(
    tmp_path: Path, defense: str, threat: str
) -> None:
    keys: dict[str, Any] = {"defenses": [defense], "threats": [threat]}
    keys |= {"targets": [unit(value) for value in (1.0, 1e-6)], "attacks": [{"name": "bim", **STEPPED}]}
    records = benchmark.run(grid(**keys), out=tmp_path, store=tmp_path / "store", plugins=PLUGINS)
    found = errors(records)
    assert (found - found.iloc[0]).abs().max().max() <= 1


def test_the_row_has_the_flag_and_keeps_its_rank(bare: tuple[pd.DataFrame, Path]) -> None:
    records, folder = bare
    noted = ["scaled-scores" in raised for raised in flags(records)]
    assert noted == [False] * len(ATTACKS) + [True] * 3 * len(ATTACKS)
    board = pd.read_csv(folder / "leaderboard.csv")
    assert ["scaled-scores" in text for text in board["flags"].fillna("")] == [False, True, True, True]
    assert board["rank"].notna().all()


def test_probabilities_are_still_doubted(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"targets": [unit(1.0, "probabilities")], "attacks": ATTACKS[:1]}
    records = benchmark.run(grid(**keys), out=tmp_path, store=tmp_path / "store", plugins=PLUGINS)
    assert {"scaled-scores", "probabilities-not-logits"} <= flags(records)[0]


def test_scores_of_ordinary_size_are_attacked_as_they_are(session_store: str, tmp_path: Path) -> None:
    """The images are bit-identical to those that the attack makes on the classifier itself."""
    attacks: list[Attack[Any]] = [
        Fgsm(FgsmConfig(eps=EPS)),
        Bim(BimConfig(eps=EPS, steps=STEPS)),
        Bim(BimConfig(eps=EPS, steps=STEPS, backend="art")),
        Pgd(PgdConfig(eps=EPS, steps=STEPS, backend="foolbox", random_start=False)),
    ]
    entries = [{"name": attack.name, **attack.config.model_dump()} for attack in attacks]
    planned_run = plan_run(
        grid(targets=[unit(1.0)], attacks=entries), Silent(), store=session_store, plugins=PLUGINS
    )
    execute_run(planned_run, Silent(), tmp_path)
    for attack, cell in zip(attacks, planned_run.plan.cells, strict=True):
        craft = cell.scores[0].candidates[0].craft
        assert isinstance(craft, Craft)
        model = planned_run.context.target(cell.target)
        x, labels = planned_run.context.clean(craft.shard)
        made = attack.craft(MeteredSurface(model, 10, (1, 28, 28)).eval(), x, labels, Noise(0, range(len(x))))
        found = planned_run.context.images(craft, craft.shard)
        assert torch.equal(found, made), attack.config
        if attack.single_step:
            same = found == textbook_step(model, x, labels)
            # rounding decides the sign of a gradient that is almost zero
            assert same.float().mean() > 0.999


def textbook_step(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), labels, reduction="sum"), x)
    return (x.detach() + EPS * gradient.sign()).clamp(0, 1)


@pytest.mark.parametrize("route", ["target-only", "exact", "bpda-identity"])
def test_every_shard_and_surface_gets_the_same_factor(session_store: str, route: str) -> None:
    keys: dict[str, Any] = {"targets": [unit(1e-3)], "threats": ["white-box"], "attacks": ATTACKS[4:5]}
    keys |= {"datasets": [{"name": "digits", "n": 120}]}
    planned_run = plan_run(grid(**keys), Silent(), store=session_store, plugins=PLUGINS)
    (cell,) = planned_run.plan.cells
    ratios = []
    for score in cell.scores:
        craft = next(c.craft for c in score.candidates if c.route == route)
        assert isinstance(craft, Craft)
        make = partial(make_surface, craft.surface, craft.shard.dataset, planned_run.context, 0)
        surface = recompute_lost(make, planned_run.context)
        x, _ = planned_run.context.clean(craft.shard)
        ratios.append(surface(x) / planned_run.context.target(cell.target)(x))
    ratio = torch.cat(ratios)
    assert ratio.min() > 100
    assert torch.allclose(ratio, ratio[0, 0])


def spread(scores: Tensor) -> float:
    return float((scores.amax(dim=1) - scores.amin(dim=1)).median())


@pytest.mark.parametrize("unit", [1e9, 1e3, 0.1, 1e-6, 1e-20])
def test_scores_of_any_other_size_are_scaled_to_one_size(unit: float) -> None:
    scores = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    assert spread(unit * scores * scale_for(unit * scores)) == pytest.approx(16, rel=1e-3)


@pytest.mark.parametrize("size", [1.01 * SMALLEST, 14.0, 0.99 * LARGEST])
def test_scores_of_ordinary_size_are_not_scaled(size: float) -> None:
    scores = torch.rand(64, 10, generator=torch.Generator().manual_seed(0))
    assert scale_for(size / spread(scores) * scores) == 1


@pytest.mark.parametrize(
    ("size", "classes", "scaled"),
    [
        (5.99, 10, True),
        (6.01, 10, False),
        (199.0, 10, False),
        (201.0, 10, True),
        (6.01, 1000, False),
        (1.85, 2, False),  # log10(2) of six: with two classes there is one wrong class to weight
        (1.75, 2, True),
    ],
)
def test_the_ordinary_size_of_scores(size: float, classes: int, scaled: bool) -> None:
    scores = torch.rand(64, classes, generator=torch.Generator().manual_seed(0))
    factor = scale_for(size / spread(scores) * scores)
    assert (factor != 1) == scaled
    assert factor == pytest.approx(16 / size if scaled else 1, rel=1e-3)


@pytest.mark.parametrize(
    "scores",
    [
        torch.zeros(4, 3),
        torch.full((4, 3), float("nan")),
        torch.tensor([[0.0, float("inf")]]),
        torch.empty(0, 3),
    ],
    ids=["constant", "nan", "infinite", "no images"],
)
def test_scores_without_information_are_not_scaled(scores: Tensor) -> None:
    assert scale_for(scores) == 1


def test_tiny_scores_stay_finite() -> None:
    tiny = 1e-40 * torch.arange(10.0)[None]
    assert torch.isfinite(tiny * scale_for(tiny)).all()


class DependsOnBatch(nn.Module):
    """A pretrained net whose small scores depend on the other images of the batch."""

    origin, image_shape = "own.py:net", (1, 28, 28)

    def forward(self, x: Tensor) -> Tensor:
        return 1e-6 * (x.flatten(1)[:, :10] + x.mean())


def test_small_scores_do_not_hide_that_they_depend_on_the_batch() -> None:
    with pytest.raises(benchmark.errors.PluginError, match="depend on the other images"):
        check_pretrained(DependsOnBatch(), digits())  # type: ignore[arg-type]
