"""The papers' shapes and their three formats, on records whose figures are written down here."""

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
from benchmark.figures import KINDS, make_blocks
from benchmark.paired import Judged, clearly_best
from benchmark.records import COLUMNS
from benchmark.runs import read_tables
from benchmark.stats import wilson
from benchmark.tables import CSV_COLUMNS, latex, markdown, tidy_csv
from tests.conftest import REPOSITORY, Runner

N = 50
GOLDEN = REPOSITORY / "tests" / "golden"


def masks(errors: int, baseline: int = N) -> Judged:
    """The first images are wrong: of two defenses, one is wrong wherever the other is."""
    return Judged(np.arange(N) < errors, np.arange(N) < baseline)


def record(defense: str, threat: str, eps: float, errors: int, **given: object) -> dict[str, object]:
    low, high = wilson(errors, N)
    row: dict[str, object] = dict.fromkeys(COLUMNS)
    row |= {f"{name}_config": "{}" for name in ("target", "defense", "attack")}
    row |= {"dataset": "digits", "target": "model", "defense": defense, "attack": "fgsm", "threat": threat}
    row |= {"threat_config": "{}", "backend": "native", "norm": "linf", "eps": eps, "n": N, "status": "ok"}
    row |= {"clean_error_target": 0.02, "clean_error": 0.04, "error_baseline": 1.0, "damaged": 0.02}
    row |= {"error": errors / N, "error_low": low, "error_high": high, "attack_success": errors / N}
    row |= {"psnr_adv": 20.0, "psnr": 24.0, "ssim_adv": 0.5, "ssim": 0.75, "purify_ms": 0.5}
    row |= {"flags": "", "reason": "", "key": f"{defense} {threat} {eps} {given.get('defense_seed')}"}
    return row | given


@pytest.fixture
def records() -> pd.DataFrame:
    """`good` helps black-box, `a_b` looks like it does white-box but is in doubt."""
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
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture
def judged(records: pd.DataFrame) -> dict[str, Judged]:
    return {row.key: masks(round(row.error * N)) for row in records.itertuples()}


@pytest.mark.parametrize(("form", "setter"), [("md", markdown), ("tex", latex), ("csv", None)])
def test_the_formats_are_what_they_were(records, judged, form, setter) -> None:
    text = setter(records, "golden", judged) if setter else tidy_csv(records, judged)
    # What threats and flags mean is said elsewhere, and changes without the format.
    text = re.sub(r"\nErrors in percent.*?(?=\n\n## |\Z)", "", text, flags=re.DOTALL)
    assert text == (GOLDEN / f"tables.{form}").read_text(encoding="utf-8")


def test_only_a_significant_difference_is_bold(records, judged) -> None:
    text = markdown(records, "t", judged, kinds=["errors"])
    assert "**20.0**" in text  # 10 of 50 against 40 of 50
    assert text.count("**") == 2 + 2 * len(["black-box", "white-box", "bold"])  # 48 against 50 is chance


def test_a_doubt_is_never_bold_but_has_to_be_beaten(records, judged) -> None:
    rows = records[records["threat"] == "white-box"].assign(column=records["defense"])
    assert clearly_best(rows.to_dict("records"), judged) is None
    trusted = rows.assign(flags="").to_dict("records")
    assert clearly_best(trusted, judged) == "a_b"


def test_the_same_errors_on_other_images_are_no_difference(records, judged) -> None:
    rows = records[(records["threat"] == "black-box") & (records["eps"] == 0.1)]
    rows = rows.assign(column=rows["defense"]).to_dict("records")
    close = judged | {rows[2]["key"]: Judged(np.arange(N) % 5 == 0, np.ones(N, dtype=bool))}
    assert clearly_best(rows, judged) == "good"
    assert clearly_best([rows[0], rows[1], rows[2] | {"error": 0.2}], close) is None


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
        assert clearly_best(rows, known) == expected


def test_nothing_is_bold_where_the_images_are_not_known(records) -> None:
    text = markdown(records, "t")
    assert "**20.0**" not in text
    assert "nothing is bold" in text


def test_the_gap_is_that_of_the_attacker_who_knows_more(records, judged) -> None:
    table = next(t for t in make_blocks(records, judged)[0].tables if t.kind == "threats")
    assert table.frame.loc[("fgsm ε 0.1", "good"), "gap"][0].value == pytest.approx(0.9 - 0.2)
    assert table.frame.loc[("fgsm ε 0.1", "a_b"), "gap"][0].lower_bound
    assert np.isnan(table.frame.loc[("fgsm ε 0.2", "good"), "gap"][0].value)  # white-box was not run
    doubted = records.assign(flags="zero-gradient")
    table = next(t for t in make_blocks(doubted, judged)[0].tables if t.kind == "threats")
    assert all(np.isnan(cell[0].value) for cell in table.frame["gap"])  # two lower bounds have no difference


def test_success_has_the_interval_of_the_images_that_were_right(records) -> None:
    table = next(t for t in make_blocks(records, None)[0].tables if t.kind == "success")
    figure = table.frame.loc["fgsm ε 0.1", "none"][0]
    assert (figure.low, figure.high) == wilson(48, 48)


def test_names_are_inert_in_every_format(records) -> None:
    evil = records.assign(defense="=1+1|<b>&$x", dataset="@cmd")
    lines = list(csv.DictReader(io.StringIO(tidy_csv(evil))))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert all(not value.startswith(("=", "+", "@")) for line in lines for value in line.values())
    assert any(line["column"] == "'=1+1|<b>&$x" for line in lines)
    assert r"=1+1\|\<b>&$x" in markdown(evil, "t")
    assert r"=1+1|$<$b$>$\&\$x" in latex(evil, "t")


def test_a_negative_figure_stays_a_number_in_csv(records) -> None:
    lines = csv.DictReader(io.StringIO(tidy_csv(records.assign(clean_error=0.0))))
    assert {line["value"] for line in lines if line["measure"] == "added"} == {"-0.02"}


def test_a_run_is_read_back_and_its_tables_made_in_each_format(small_run: Runner, tmp_path: Path) -> None:
    given = small_run(defenses=["identity", "median"])
    out = tmp_path / "out"
    pd.testing.assert_frame_equal(benchmark.load(out), given)
    pd.testing.assert_frame_equal(benchmark.load(str(out)), given)
    assert read_tables(out) == (out / "tables.md").read_text(encoding="utf-8")
    assert r"\toprule" in read_tables(out, "latex")
    lines = pd.read_csv(io.StringIO(read_tables(out, "csv", ["errors"])))
    shown = lines[(lines["column"] == "median") & (lines["row"] == "fgsm ε 0.1")].set_index("attacker")
    for row in given[given["defense"] == "median"].itertuples():
        found = shown[shown.index.str.startswith(row.threat)].iloc[0]
        assert (found["value"], found["low"]) == pytest.approx((row.error, row.error_low))
    assert "[" not in read_tables(out, kinds=["clean"]).split("##")[-1]
    assert "[" in read_tables(out, kinds=["clean"], intervals=True).split("##")[-1]


def test_a_format_or_table_that_is_not_there_is_refused(small_run: Runner, tmp_path: Path) -> None:
    small_run(threats=["black-box"])
    with pytest.raises(UserError, match="no format 'latx'") as error:
        read_tables(tmp_path / "out", "latx")
    assert "latex" in str(error.value.problems[0])
    with pytest.raises(UserError, match="no kind of table 'gap'"):
        read_tables(tmp_path / "out", kinds=["gap"])
    with pytest.raises(UserError, match="no run in"):
        benchmark.load(tmp_path)


def test_the_command_names_every_kind_of_table() -> None:
    source = (REPOSITORY / "benchmark" / "cli.py").read_text(encoding="utf-8")
    assert ", ".join(list(KINDS)[:-1]) + f" or {list(KINDS)[-1]}" in source
