"""Images made on one target and shown to another, and defenses trained with a named source."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from benchmark.execution.observer import Silent
from benchmark.plan.plan import Plan
from benchmark.report.tables import markdown
from benchmark.runs import plan_run
from tests.conftest import Runner

DIRECT = {"name": "fgsm", "eps": 0.1}
SHOWN = DIRECT | {"craft_on": "nearest-mean"}
# both output the labels of nearest-mean; the second has no gradient
SURE = {"name": "odd", "how": "sure"}
STEPPED = {"name": "odd", "how": "stepped"}


def planned(constructed: Path, store: Path, **keys: object) -> Plan:
    grid = {
        "datasets": [{"name": "digits", "n": 120}],
        "targets": ["nearest-mean", SURE],
        "defenses": ["identity"],
        "attacks": [SHOWN],
        "threats": ["black-box"],
    }
    return plan_run(grid | keys, Silent(), store=str(store), plugins=[constructed]).plan


def configs(records: pd.DataFrame) -> list[dict]:
    return [json.loads(text).get("craft_on") for text in records["attack_config"]]


def test_the_images_of_one_target_are_shown_to_another(small_run: Runner) -> None:
    targets = ["nearest-mean", SURE, STEPPED]
    records = small_run(targets=targets, attacks=[DIRECT, SHOWN], threats=["black-box"])
    base = {"name": "nearest-mean"}
    assert configs(records) == [None, None, base, None, base]  # on the same target it is the plain attack
    own, _, shown, blind, helped = records["error"]
    assert shown == own
    assert helped > blind
    for row in (records.iloc[2], records.iloc[4]):
        assert row["error_baseline"] == row["error_target"] == row["error"]


def test_the_tables_and_the_leaderboard_name_the_target_that_images_were_made_on(
    small_run: Runner, tmp_path: Path
) -> None:
    records = small_run(targets=[SURE], attacks=[DIRECT, SHOWN], threats=["black-box"])
    text = markdown(records, "t")
    assert "fgsm ε 0.1, made on nearest-mean" in text
    assert "fgsm ε 0.1 |" in " ".join(text.split())
    (attacks,) = pd.read_csv(tmp_path / "out" / "leaderboard.csv")["attacks"]
    assert attacks == "fgsm fgsm@nearest-mean"


def test_an_attack_on_another_target_does_not_make_a_row_complete(small_run: Runner, tmp_path: Path) -> None:
    def flags(attack: dict) -> str:
        small_run(targets=[SURE], attacks=[attack], threats=["black-box"])
        return str(pd.read_csv(tmp_path / "out" / "leaderboard.csv")["flags"].iloc[0])

    assert "incomplete" not in flags({"name": "gives-up"})  # this attack is mandatory
    assert "incomplete" in flags({"name": "gives-up", "craft_on": "nearest-mean"})


def test_white_box_makes_its_own_images(small_run: Runner) -> None:
    records = small_run(attacks=[SHOWN], threats=["white-box"])
    assert records["status"].tolist() == ["skipped"]
    assert "craft_on nearest-mean: white-box makes its images" in records["reason"].iloc[0]


def test_the_target_that_images_are_made_on_has_the_seed_of_the_cell(
    constructed: Path, tmp_path: Path
) -> None:
    plan = planned(constructed, tmp_path, seeds={"target": [0, 7]})
    for cell in plan.cells:
        crafted = cell.scores[0].baseline[0].surface.target
        assert (crafted.label, crafted.seed) == ("nearest-mean", cell.target.seed)
        assert cell.scores[0].candidates[0].craft is cell.scores[0].baseline[0]


def test_the_keys_contain_the_target_that_images_were_made_on(constructed: Path, tmp_path: Path) -> None:
    plan = planned(constructed, tmp_path, targets=[SURE], attacks=[DIRECT, SHOWN])
    direct, shown = plan.cells
    assert direct.key != shown.key
    assert direct.scores[0].key != shown.scores[0].key


def test_a_named_source_trains_one_purifier_for_all_targets(constructed: Path, tmp_path: Path) -> None:
    plan = planned(constructed, tmp_path, defenses=[{"name": "shift", "source": "nearest-mean"}])
    base, other = plan.cells
    assert base.purifier.key == other.purifier.key
    assert json.loads(base.identity["defense_config"])["source"] == "target"
    assert json.loads(other.identity["defense_config"])["source"] == {"name": "nearest-mean"}
    source = other.purifier.parts[0].training.source
    assert (source.label, source.role) == ("nearest-mean", "target")


def test_the_tables_show_a_named_source(small_run: Runner) -> None:
    defenses = ["shift", {"name": "shift", "source": "nearest-mean"}]
    text = markdown(small_run(targets=[SURE], defenses=defenses), "t")
    assert "shift (source nearest-mean)" in text
