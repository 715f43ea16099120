"""The Markdown tables: failed cells, doubts, labels."""

from __future__ import annotations

import json
import math
import re

import pandas as pd

from benchmark.report.tables import latex, markdown
from benchmark.results.flags import FLAGS
from tests.conftest import Runner


def test_a_failed_cell_is_shown_as_failed(small_run: Runner) -> None:
    text = markdown(small_run(defenses=["identity", "raises"]), "t")
    line = next(line for line in text.splitlines() if line.startswith("|") and "fgsm" in line)
    assert line.split("|")[-2].strip() == "failed"
    assert "out of purifier fluid" in text


def test_a_grid_in_which_everything_fails_still_has_tables(small_run: Runner) -> None:
    text = markdown(small_run(defenses=["raises"]), "t")
    assert "failed" in text
    assert "nan" not in text


def test_two_configurations_of_a_defense_are_labelled_by_the_differing_parameter(small_run: Runner) -> None:
    defenses = [
        {"name": "shift", "scale": 1.0, "source": "target"},
        {"name": "shift", "scale": 0.5, "source": "target"},
    ]
    text = markdown(small_run(defenses=defenses), "t")
    assert "shift (scale 1.0)" in text
    assert "shift (scale 0.5)" in text


def test_chains_are_labelled_by_the_parameters_of_their_parts(small_run: Runner) -> None:
    chains = [{"chain": ["median", {"name": "shift", "scale": scale}]} for scale in (1.0, 0.5)]
    text = markdown(small_run(defenses=chains, source="target"), "t")
    assert "median+shift (2 shift scale 1.0)" in text
    assert "median+shift (2 shift scale 0.5)" in text


def test_a_preset_is_shown_with_the_name_and_whether_it_was_changed(small_run: Runner) -> None:
    records = small_run(defenses=["tuned", {"name": "tuned", "preset": "paper", "width": 2}])
    text = markdown(records, "t")
    assert re.search(r"tuned \(.*width 3.*\) \[cpu\]", text)
    assert re.search(r"tuned \(.*width 2.*\) \[paper, changed\]", text)


def test_many_defenses_are_listed_in_rows(small_run: Runner) -> None:
    defenses = [{"name": "shift", "scale": i / 10, "source": "target"} for i in range(1, 9)]
    lines = markdown(small_run(defenses=["identity", *defenses]), "t").splitlines()
    assert any(line.startswith("|") and "shift (scale 0.3)" in line.split("|")[1] for line in lines)


def test_a_doubt_is_marked_and_explained(small_run: Runner) -> None:
    text = markdown(small_run(attacks=["gives-up"]), "t")
    assert "≥ " in text
    assert "† not-moved:" in text


def test_a_mark_means_the_same_in_every_table_of_a_file(small_run: Runner) -> None:
    records = small_run()
    first, second = (
        records.assign(flags="zero-gradient"),
        records.assign(flags="few-draws", n=records["n"] + 1),
    )
    text = markdown(pd.concat([first.assign(flags="few-draws zero-gradient"), first, second]), "t")
    mark = re.search(r"^- (\S+) few-draws:", text, re.MULTILINE)
    assert mark
    last = text.split(f"n = {second['n'].iloc[0]}")[1]
    assert f"≥ {100 * second['error'].iloc[0]:.1f}{mark.group(1)}" in last


def test_attackers_of_different_settings_have_tables_of_their_own(small_run: Runner) -> None:
    records = small_run()
    white = records[records["threat"] == "white-box"]
    weak, strong = (white.assign(threat_config=f'{{"eot": {eot}}}', error=eot / 16) for eot in (1, 8))
    text = markdown(pd.concat([weak, strong]), "t")
    assert "6.2" in text.split("### white-box (eot 1)")[1].split("###")[0]
    assert "50.0" in text.split("### white-box (eot 8)")[1].split("###")[0]


def test_no_flag_is_without_a_mark(small_run: Runner) -> None:
    text = markdown(small_run().assign(flags=" ".join(FLAGS)), "t")
    marks = re.findall(r"^- (\S+) ([a-z-]+):", text, re.MULTILINE)
    assert {name for mark, name in marks} == set(FLAGS)
    assert len({mark for mark, name in marks}) == len(FLAGS)


def test_errors_are_percent_and_psnr_is_of_the_black_box_images(small_run: Runner) -> None:
    records = small_run()
    text = markdown(records, "t")
    black_box = records[records["threat"] == "black-box"].iloc[0]
    assert f"{100 * black_box['error']:.1f}" in text
    assert f"{black_box['psnr_adv']:.1f} / {black_box['ssim_adv']:.3f}" in text


def test_craft_on_is_labelled_by_name_and_differing_parameters(small_run: Runner) -> None:
    records = small_run(threats=["black-box"])
    config = json.loads(records["attack_config"].iloc[0])

    def made_on_other(epochs: int) -> pd.DataFrame:
        base = config | {"craft_on": {"name": "other", "epochs": epochs}}
        return records.assign(attack_config=json.dumps(base))

    one = markdown(pd.concat([records, made_on_other(4)]), "t")
    assert "made on other" in one
    assert "epochs" not in one
    assert "craft_on epochs 8" in markdown(pd.concat([records, made_on_other(4), made_on_other(8)]), "t")


def test_norm_minimising_attacks_have_a_table_of_distances(small_run: Runner) -> None:
    """The median over images; infinite if over half of the images are robust."""
    records = small_run(defenses=["identity", "median"])
    assert "median distance" not in markdown(records, "t")
    minimal = records.assign(
        eps=None, norm="l2", l2=records["defense"].map({"identity": 1.25, "median": math.inf})
    )
    table = markdown(minimal, "t").split("median distance")[1]
    assert re.search(r"\|\s+1\.250 \|\s+∞ \|", table)
    assert r"1.250 & $\infty$" in latex(minimal, "t").split("median distance")[1]
    failed = minimal.assign(status=records["defense"].map({"identity": "ok", "median": "failed"}))
    assert re.search(r"\|\s+1\.250 \|\s+failed \|", markdown(failed, "t").split("median distance")[1])


def test_skipped_cells_say_why(small_run: Runner) -> None:
    assert "its black-box row says it all" in markdown(small_run(attacks=["noise"]), "t")
