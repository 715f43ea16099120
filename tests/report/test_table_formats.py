"""Tables in three formats, on records whose values are written down here."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import benchmark
from benchmark.errors import UserError
from benchmark.metrics.statistics import wilson
from benchmark.report.table_data import KINDS, make_blocks
from benchmark.report.tables import CSV_COLUMNS, latex, markdown, read_tables, tidy_csv
from benchmark.results.columns import RECORD_COLUMNS
from benchmark.results.significance import ImageErrors, significantly_best
from studies import REPOSITORY
from tests.conftest import Runner

N = 50
GOLDEN = REPOSITORY / "tests" / "report" / "golden"


def masks(errors: int, baseline: int = N) -> ImageErrors:
    """The first images are misclassified, so the errors of two defenses overlap."""
    return ImageErrors(np.arange(N) < errors, np.arange(N) < baseline)


def record(defense: str, threat: str, eps: float, errors: int, **columns: object) -> dict[str, object]:
    low, high = wilson(errors, N)
    row: dict[str, object] = dict.fromkeys(RECORD_COLUMNS)
    row |= {f"{name}_config": "{}" for name in ("target", "defense", "attack")}
    row |= {"dataset": "digits", "target": "model", "defense": defense, "attack": "fgsm", "threat": threat}
    row |= {"threat_config": "{}", "backend": "native", "norm": "linf", "eps": eps, "n": N, "status": "ok"}
    row |= {"clean_error_target": 0.02, "clean_error": 0.04, "error_baseline": 1.0, "damaged": 0.02}
    row |= {"error": errors / N, "error_low": low, "error_high": high, "attack_success": errors / N}
    row |= {"psnr_adv": 20.0, "psnr": 24.0, "ssim_adv": 0.5, "ssim": 0.75, "purify_ms": 0.5}
    row |= {"flags": "", "reason": "", "key": f"{defense} {threat} {eps} {columns.get('defense_seed')}"}
    return row | columns


@pytest.fixture
def records() -> pd.DataFrame:
    """`good` helps in black-box; `a_b` seems to help in white-box but is in doubt."""
    rows = [
        record("none", "black-box", 0.1, 50),
        record("good", "black-box", 0.1, 10),
        record("a_b", "black-box", 0.1, 40),
        record("none", "black-box", 0.2, 50),
        record("good", "black-box", 0.2, 48),
        record("a_b", "black-box", 0.2, 50),
        record("none", "white-box", 0.1, 50),
        record("good", "white-box", 0.1, 45),
        record("a_b", "white-box", 0.1, 20, flags="zero-gradient"),
    ]
    return pd.DataFrame(rows, columns=list(RECORD_COLUMNS))


@pytest.fixture
def image_errors(records: pd.DataFrame) -> dict[str, ImageErrors]:
    return {row.key: masks(round(row.error * N)) for row in records.itertuples()}


@pytest.mark.parametrize(("form", "setter"), [("md", markdown), ("tex", latex), ("csv", None)])
def test_the_formats_equal_the_golden_files(records, image_errors, form, setter) -> None:
    text = setter(records, "golden", image_errors) if setter else tidy_csv(records, image_errors)
    # The meaning of threats and flags may change without the format.
    text = re.sub(r"\nErrors in percent.*?(?=\n\n## |\Z)", "", text, flags=re.DOTALL)
    assert text == (GOLDEN / f"tables.{form}").read_text(encoding="utf-8")


def test_only_a_significant_difference_is_bold(records, image_errors) -> None:
    text = markdown(records, "t", image_errors, kinds=["errors"])
    assert "**20.0**" in text  # 10 of 50 against 40 of 50
    assert text.count("**") == 2 + 2 * len(["black-box", "white-box", "bold"])  # 48 against 50 is chance


def test_an_error_in_doubt_is_never_bold_but_has_to_be_beaten(records, image_errors) -> None:
    rows = records[records["threat"] == "white-box"].assign(column=records["defense"])
    assert significantly_best(rows.to_dict("records"), image_errors) is None
    trusted = rows.assign(flags="").to_dict("records")
    assert significantly_best(trusted, image_errors) == "a_b"


def test_the_same_errors_on_other_images_are_no_difference(records, image_errors) -> None:
    rows = records[(records["threat"] == "black-box") & (records["eps"] == 0.1)]
    rows = rows.assign(column=rows["defense"]).to_dict("records")
    close = image_errors | {rows[2]["key"]: ImageErrors(np.arange(N) % 5 == 0, np.ones(N, dtype=bool))}
    assert significantly_best(rows, image_errors) == "good"
    assert significantly_best([rows[0], rows[1], rows[2] | {"error": 0.2}], close) is None


def test_over_seeds_the_least_favourable_pair_decides(records) -> None:
    def of(defense: str, errors: list[int]) -> list[dict[str, object]]:
        return [
            record(defense, "black-box", 0.1, count, defense_seed=seed, column=defense)
            for seed, count in enumerate(errors)
        ]

    other = of("other", [40, 40])
    for ours, expected in (([10, 12], "ours"), ([0, 38], None)):
        rows = of("ours", ours) + other
        known = {str(row["key"]): masks(round(float(str(row["error"])) * N)) for row in rows}
        assert significantly_best(rows, known) == expected


def test_nothing_is_bold_without_outcomes(records) -> None:
    text = markdown(records, "t")
    assert "**20.0**" not in text
    assert "nothing is bold" in text


def test_the_gap_is_the_difference_between_attackers(records, image_errors) -> None:
    table = next(t for t in make_blocks(records, image_errors)[0].tables if t.kind == "threats")
    assert table.frame.loc[("fgsm ε 0.1", "good"), "gap"][0].value == pytest.approx(0.9 - 0.2)
    assert table.frame.loc[("fgsm ε 0.1", "a_b"), "gap"][0].lower_bound
    assert np.isnan(table.frame.loc[("fgsm ε 0.2", "good"), "gap"][0].value)  # white-box was not run
    doubted = records.assign(flags="zero-gradient")
    table = next(t for t in make_blocks(doubted, image_errors)[0].tables if t.kind == "threats")
    assert all(np.isnan(cell[0].value) for cell in table.frame["gap"])  # two lower bounds have no difference


def test_success_has_the_interval_of_the_images_that_were_right(records) -> None:
    table = next(t for t in make_blocks(records, None)[0].tables if t.kind == "success")
    measurement = table.frame.loc["fgsm ε 0.1", "none"][0]
    assert (measurement.low, measurement.high) == wilson(48, 48)


def test_names_are_escaped_in_every_format(records) -> None:
    evil = records.assign(defense="=1+1|<b>&$x", dataset="@cmd")
    lines = list(csv.DictReader(io.StringIO(tidy_csv(evil))))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert all(not value.startswith(("=", "+", "@")) for line in lines for value in line.values())
    assert any(line["column"] == "'=1+1|<b>&$x" for line in lines)
    assert r"=1+1\|\<b>&$x" in markdown(evil, "t")
    assert r"=1+1|$<$b$>$\&\$x" in latex(evil, "t")


def test_a_negative_value_stays_a_number_in_csv(records) -> None:
    lines = csv.DictReader(io.StringIO(tidy_csv(records.assign(clean_error=0.0))))
    assert {line["value"] for line in lines if line["measure"] == "added"} == {"-0.02"}


def test_a_run_is_read_back_and_its_tables_made_in_each_format(small_run: Runner, tmp_path: Path) -> None:
    records = small_run(defenses=["identity", "median"])
    out = tmp_path / "out"
    pd.testing.assert_frame_equal(benchmark.load(out), records)
    pd.testing.assert_frame_equal(benchmark.load(str(out)), records)
    assert read_tables(out) == (out / "tables.md").read_text(encoding="utf-8")
    assert r"\toprule" in read_tables(out, "latex")
    lines = pd.read_csv(io.StringIO(read_tables(out, "csv", ["errors"])))
    shown = lines[(lines["column"] == "median") & (lines["row"] == "fgsm ε 0.1")].set_index("attacker")
    for row in records[records["defense"] == "median"].itertuples():
        found = shown[shown.index.str.startswith(row.threat)].iloc[0]
        assert (found["value"], found["low"]) == pytest.approx((row.error, row.error_low))
    assert "[" not in read_tables(out, kinds=["clean"]).split("##")[-1]
    assert "[" in read_tables(out, kinds=["clean"], intervals=True).split("##")[-1]


def test_an_unknown_format_or_table_is_refused(small_run: Runner, tmp_path: Path) -> None:
    small_run(threats=["black-box"])
    with pytest.raises(UserError, match="no format 'latx'") as error:
        read_tables(tmp_path / "out", "latx")
    assert "latex" in str(error.value.problems[0])
    with pytest.raises(UserError, match="no kind of table 'gap'"):
        read_tables(tmp_path / "out", kinds=["gap"])
    with pytest.raises(UserError, match="no run in"):
        benchmark.load(tmp_path)


def test_the_command_names_every_kind_of_table() -> None:
    source = (REPOSITORY / "benchmark" / "cli" / "finished_run_commands.py").read_text(encoding="utf-8")
    assert ", ".join(list(KINDS)[:-1]) + f" or {list(KINDS)[-1]}" in source
