"""Comparison of a run with a paper: which values are compared, and which differences are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.files.tables import write_csv
from benchmark.metrics.statistics import wilson
from benchmark.report.paper_comparison import Pair, compare, compare_with_papers, comparison
from benchmark.results.columns import RECORD_COLUMNS

SOURCE = {"preset": "paper", "source": "target"}


def record(**changes: Any) -> dict[str, Any]:
    """A record: APE-GAN, trained with model C as source, under FGSM at 0.3, with 3 errors in 100."""
    low, high = wilson(3, 100)
    row: dict[str, Any] = dict.fromkeys(RECORD_COLUMNS)
    row |= {"dataset": "mnist", "target": "mnist-c", "target_config": {}, "defense": "ape-gan"}
    row |= {"defense_config": SOURCE, "attack": "fgsm", "attack_config": {"targeted": False}, "eps": 0.3}
    row |= {"backend": "native", "threat": "black-box", "threat_config": {}, "status": "ok", "n": 100}
    row |= {"clean_error": 0.02, "error": 0.03, "error_low": low, "error_high": high, "flags": ""} | changes
    return row | {k: json.dumps(v) for k, v in row.items() if isinstance(v, dict)}


def run(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(RECORD_COLUMNS))
    return frame.astype({name: float for name in ("eps", "error", "error_top5", "attack_success")})


def pairs(*rows: dict[str, Any], paper: str = "ape-gan", **wanted: Any) -> list[Pair]:
    found = compare(run(*rows), paper)
    return [p for p in found if all(p.published[name] == value for name, value in wanted.items())]


def one(*rows: dict[str, Any], **wanted: Any) -> Pair:
    wanted = {"table": "1", "dataset": "mnist", "defense": "ape-gan", "attack": "fgsm"} | wanted
    (pair,) = pairs(*rows, **wanted)
    return pair


def test_a_run_without_rows_matches_no_paper() -> None:
    assert compare_with_papers(pd.DataFrame(columns=list(RECORD_COLUMNS))) == []


def test_a_published_value_is_compared_with_the_measured_one_and_its_interval() -> None:
    pair = one(record())
    assert (pair.theirs, pair.ours, pair.n, pair.differs) == (0.028, 0.03, 100, ())
    assert (pair.low, pair.high) == wilson(3, 100)
    assert pair.inside
    low, high = wilson(60, 100)
    assert not one(record(error=0.6, error_low=low, error_high=high)).inside


def test_the_papers_that_a_run_matches_are_found() -> None:
    (found,) = compare_with_papers(run(record()))
    assert found.paper == "ape-gan"
    shown = [{name: line[name] for name in ("published", "ours", "inside")} for line in found.tables["1"]]
    assert {"published": "2.8", "ours": "3.0", "inside": "yes"} in shown
    assert all(line["ours"] != "–" for lines in found.tables.values() for line in lines)
    assert compare_with_papers(run(record(dataset="digits"))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "fashion-mnist"},
        {"target": "mnist-b"},
        {"target_config": {"adversarial": {"attack": "fgsm", "eps": 0.3}}},
        {"defense": "iso-gan"},
        {"attack": "pgd"},
        {"attack_config": {"craft_on": {"name": "mnist-a"}}},
        {"eps": 0.2},
        {"threat": "white-box"},
        {"status": "failed"},
    ],
    ids=str,
)
def test_another_experiment_is_not_compared(change: dict[str, Any]) -> None:
    pair = one(record(**change))
    assert pair.ours is None
    assert pair.inside is None


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"defense_config": SOURCE | {"preset": "cpu"}}, "preset cpu"),
        ({"defense_config": SOURCE | {"preset_changed": True}}, "preset paper, changed"),
        ({"defense_config": {"preset": "paper"}}, "source default, theirs target"),
        ({"backend": "art"}, "run by art"),
        ({"flags": "zero-gradient weak-backend"}, "zero-gradient"),
        ({"dataset": 'mnist {"size":28}'}, 'data: mnist {"size":28}'),
    ],
    ids=str,
)
def test_a_setting_that_differs_is_named(change: dict[str, Any], difference: str) -> None:
    pair = one(record(**change))
    assert pair.ours == 0.03
    assert pair.differs == (difference,)


def test_the_cell_with_the_settings_of_the_paper_counts() -> None:
    small = record(defense_config={"preset": "cpu"}, error=0.9)
    assert one(small, record()).ours == one(record(), small).ours == 0.03


def test_seeds_are_averaged_and_their_intervals_joined() -> None:
    low, high = wilson(9, 100)
    pair = one(record(), record(defense_seed=1, error=0.09, error_low=low, error_high=high))
    assert pair.ours == pytest.approx(0.06)
    assert (pair.low, pair.high) == (wilson(3, 100)[0], high)
    assert "mean of 2 cells, interval over all of them" in pair.differs


def test_the_four_columns_of_adversarial_training_are_distinguished() -> None:
    adversarial = {"adversarial": {"attack": "fgsm", "eps": 0.3, "steps": 1, "share": 0.5}}
    made = {"craft_on": {"name": "mnist-c", "epochs": 4}}
    both = record(target_config=adversarial, attack_config=made, error=0.05)
    base = record(target_config={"adversarial": None})
    found = [p for p in pairs(base, both, table="8", eps=0.3) if p.ours is not None]
    assert [(p.theirs, p.ours) for p in found] == [(0.028, 0.03), (0.026, 0.05)]
    assert found[1].differs == ("source target, theirs mnist-c",)


def test_clean_errors_come_from_any_cell_of_the_pipeline() -> None:
    pair = one(record(), record(attack="pgd"), attack=None)
    assert (pair.theirs, pair.ours) == (0.012, 0.02)
    assert (pair.low, pair.high) == wilson(2, 100)
    assert pair.differs == ()


def test_success_is_compared_among_images_that_are_right_when_clean() -> None:
    changes = {"target": "advgan-cnn", "defense": "puvae", "defense_config": {"preset": "paper"}}
    row = record(**changes, attack="advgan", eps=0.2, attack_success=0.25, clean_error=0.2)
    (pair,) = [p for p in pairs(row, paper="advgan", dataset="mnist") if p.ours is not None]
    assert (pair.theirs, pair.ours) == (pytest.approx(0.172), 0.25)
    assert (pair.low, pair.high) == wilson(20, 80)


def test_accuracy_is_compared_as_an_error_and_an_unknown_classifier_matches_any() -> None:
    (pair,) = [p for p in pairs(record(attack="cw-l2", eps=None), table="author") if p.ours is not None]
    assert (pair.theirs, pair.ours) == (pytest.approx(0.0145), 0.03)


def test_a_top_5_error_needs_a_measured_one() -> None:
    rows = {"dataset": "imagenet", "target": "inception-v3", "eps": 8 / 255}
    wanted = {"table": "4", "metric": "error_top5"}
    found = [p for p in pairs(record(**rows), **wanted) if p.ours is not None]
    assert found == []
    found = [p for p in pairs(record(**rows, error_top5=0.2), **wanted) if p.ours is not None]
    assert [(p.theirs, p.ours) for p in found] == [(0.225, 0.2)]


def test_a_copy_of_a_data_set_counts_only_on_request() -> None:
    copy = record(dataset='folder {"path":"copy.zip"}', target="densenet40", eps=0.1)
    assert all(p.ours is None for p in compare(run(copy), "ape-gan"))
    found = [p for p in compare(run(copy), "ape-gan", {"folder": "cifar10"}) if p.published["attack"]]
    first = next(p for p in found if p.ours is not None)
    assert (first.theirs, first.differs) == (0.264, ('data: folder {"path":"copy.zip"}',))


def test_the_text_has_each_table_of_the_paper_that_the_run_has_cells_of() -> None:
    text = comparison(compare(run(record()), "ape-gan"), "ape-gan")
    line = next(line for line in text.splitlines() if "fgsm ε 0.3" in line and "ape-gan" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[4:10] == ["2.8", "3.0", "1.0–8.5", "+0.2", "yes", "100"]
    assert "## Table 1" in text
    assert "## Table 4" not in text
    assert "This run has no cells of: 4" in text
    assert "arXiv 1707.05474" in text


def test_the_misprint_is_noted() -> None:
    row = record(dataset="cifar10", target="resnet18", attack="l-bfgs", eps=None)
    text = comparison(compare(run(row), "ape-gan"), "ape-gan")
    assert "table 7 prints 19.0" in text
    assert "table 1 prints 19.9" in text


def test_the_command_prints_it_and_refuses_unknown_names(tmp_path: Path) -> None:
    write_csv(tmp_path / "records.csv", RECORD_COLUMNS, [record()])
    good = CliRunner().invoke(app, ["compare", str(tmp_path), "--paper", "ape-gan"])
    assert good.exit_code == 0, good.output
    assert "| yes" in good.output
    bad = CliRunner().invoke(app, ["compare", str(tmp_path), "--paper", "apegan"])
    assert isinstance(bad.exception, UserError)
    assert "did you mean 'ape-gan'" in str(bad.exception)
    odd = CliRunner().invoke(app, ["compare", str(tmp_path), "--paper", "ape-gan", "--counts-as", "folder"])
    assert "OURS=THEIRS" in str(odd.exception)
