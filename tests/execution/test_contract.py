"""The facts and settings that a defense may declare, their effect on the records, and their conflicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import pytest
import torch

from benchmark.errors import UserError
from benchmark.execution.observer import Silent
from benchmark.plan.grid import load_grid
from benchmark.plan.tasks import Craft, Task
from benchmark.plugins.registry import Registry, default_registry
from benchmark.runs import CompletedRun, PlannedRun, execute_run, plan_run

GRID = {
    "name": "contract",
    "datasets": [{"name": "digits", "n": 40}],
    "targets": ["nearest-mean"],
    "source": "target",
    "defenses": ["identity"],
    "attacks": [{"name": "fgsm", "eps": 0.1}],
    "threats": ["black-box", "white-box"],
}


def _plan(plugin: Path, store: Path, observer: Silent | None = None, **keys: Any) -> PlannedRun:
    return plan_run(GRID | keys, observer or Silent(), store=str(store), plugins=[plugin], device="cpu")


def _run(plugin: Path, tmp_path: Path, **keys: Any) -> tuple[CompletedRun, pd.DataFrame]:
    finished = execute_run(_plan(plugin, tmp_path / "store", **keys), Silent(), tmp_path / "out")
    return finished, pd.read_csv(tmp_path / "out" / "records.csv", dtype={"flags": str, "reason": str})


@pytest.fixture(scope="module")
def registry(constructed: Path) -> Registry:
    return default_registry([constructed])


# --- presets and defaults by data set ----------------------------------------------------------------


def _tuned(plugin: Path, store: Path, dataset: str, **entry: Any) -> dict[str, Any]:
    """The parameters of `tuned` in the row, with the entry of the grid."""
    planned_run = _plan(
        plugin,
        store,
        datasets=[{"name": dataset, "n": 2}],
        defenses=[{"name": "tuned"} | entry],
        threats=["black-box"],
    )
    (cell,) = planned_run.plan.cells
    return json.loads(cell.identity["defense_config"])


@pytest.mark.parametrize(
    ("dataset", "entry", "expected"),
    [
        ("dimmed", {}, ("cpu", 1, 1, 0.25)),
        ("dimmed", {"preset": "paper"}, ("paper", 7, 1, 0.5)),
        ("dimmed", {"preset": "paper", "epochs": 2}, ("paper", 2, 1, 0.5)),
        ("dimmed", {"preset": "cpu"}, ("cpu", 1, 1, 0.25)),
        ("digits", {}, ("cpu", 4, 3, 0.25)),
        ("digits", {"width": 9}, ("cpu", 4, 9, 0.25)),
        ("digits", {"width": 1}, ("cpu", 4, 1, 0.25)),  # explicit, although it is the plain default
        ("digits", {"preset": "paper"}, ("paper", 7, 3, 0.5)),
        ("digits", {"preset": "paper", "epochs": 1, "rate": 0.0}, ("paper", 1, 3, 0.0)),
    ],
)
def test_explicit_parameters_override_the_preset_which_overrides_the_data_set(
    constructed: Path,
    session_store: str,
    dataset: str,
    entry: dict[str, Any],
    expected: tuple[str, int, int, float],
) -> None:
    found = _tuned(constructed, Path(session_store), dataset, **entry)
    # `rate` acts after training, so only the other parameters change the preset
    changed = bool(entry.keys() & {"epochs", "width"})
    assert found.pop("preset_changed", False) == changed
    assert found == dict(zip(("preset", "epochs", "width", "rate"), expected, strict=True))


def test_the_records_have_the_resolved_values(constructed: Path, tmp_path: Path) -> None:
    datasets = [{"name": "digits", "n": 4}, {"name": "dimmed", "n": 4}]
    defenses = ["tuned", {"name": "tuned", "preset": "paper"}]
    finished, records = _run(
        constructed, tmp_path, datasets=datasets, defenses=defenses, threats=["black-box"]
    )
    assert not finished.failed
    configs = [json.loads(config) for config in records["defense_config"]]
    assert [(c["preset"], c["epochs"], c["width"]) for c in configs] == [
        ("cpu", 4, 3),
        ("paper", 7, 3),
        ("cpu", 1, 1),
        ("paper", 7, 1),
    ]


def test_the_error_of_an_unknown_preset_names_its_line(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "datasets: [digits]\ntargets: [mnist-b]\ndefenses:\n  - name: tuned\n    epochs: 2\n"
        "    preset: papr\nattacks: [noise]\nthreats: [black-box]\n"
    )
    with pytest.raises(UserError) as caught:
        load_grid(path, registry)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(path), 6)
    assert "defense tuned: preset = 'papr'" in problem.message
    assert "'paper'" in problem.message


@pytest.mark.parametrize("preset", [["paper"], 3, None])
def test_a_preset_that_is_not_a_name_is_refused(registry: Registry, preset: Any) -> None:
    with pytest.raises(UserError, match="defense tuned: preset = "):
        load_grid(GRID | {"defenses": [{"name": "tuned", "preset": preset}]}, registry)


# --- a cheaper setting for attacks -------------------------------------------------------------------


class Diary(Silent):
    """Records the started tasks in the list in which the defense records its calls."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def started(self, task: Task) -> None:
        self.events.append(task)


def _dear_run(plugin: Path, tmp_path: Path, **keys: Any) -> tuple[list[tuple[Task, list[Any]]], pd.DataFrame]:
    """Each task with the calls of `dear` during it, and the records."""
    diary = Diary()
    planned_run = _plan(plugin, tmp_path / "store", diary, defenses=["identity", "dear"], **keys)
    module = sys.modules[planned_run.context.registry.get("defense", "dear").load().__module__]
    diary.events = module.EVENTS
    diary.events.clear()
    finished = execute_run(planned_run, diary, tmp_path / "out")
    assert not finished.failed, finished.failed[0]["reason"]
    calls: list[tuple[Task, list[Any]]] = []
    for event in diary.events:
        if isinstance(event, Task):
            calls.append((event, []))
        else:
            calls[-1][1].append(event)
    return calls, pd.read_csv(tmp_path / "out" / "records.csv", dtype={"flags": str})


def test_attacks_run_the_cheaper_setting_and_the_judge_runs_the_real_one(
    constructed: Path, tmp_path: Path
) -> None:
    attacks = [{"name": "fgsm", "eps": [0.05, 0.1]}, {"name": "pgd", "eps": 0.1, "steps": 2}]
    calls, _ = _dear_run(constructed, tmp_path, attacks=attacks)
    by_kind = {
        kind: {event for task, events in calls if task.kind == kind for event in events}
        for kind in ("craft", "gradient-probe", "purify", "score")
    }
    cheap, real = {1, "forget"}, {4, "forget"}
    assert by_kind == {"craft": cheap, "gradient-probe": cheap, "purify": real, "score": real}


def test_a_defense_forgets_before_each_attack(constructed: Path, tmp_path: Path) -> None:
    calls, _ = _dear_run(constructed, tmp_path, attacks=[{"name": "pgd", "eps": 0.1, "steps": 2}])
    crafts = [
        events
        for task, events in calls
        if isinstance(task, Craft) and task.surface.purifier and task.surface.purifier.name == "dear"
    ]
    # exact, BPDA with the identity and a network, the start at the target-only image; last the purified set
    purified_set = crafts.pop()
    assert purified_set == ["forget"]
    assert len(crafts) == 4
    for events in crafts:
        assert events[0] == "forget"
        assert events.count("forget") == 1
        assert events.count(1) == len(events) - 1 > 1


def test_only_white_box_rows_of_a_cheaper_setting_are_marked(constructed: Path, tmp_path: Path) -> None:
    _, records = _dear_run(constructed, tmp_path)
    marked = records[records["flags"].fillna("").str.split().map(lambda flags: "cheap-surface" in flags)]
    assert marked[["defense", "threat"]].to_numpy().tolist() == [["dear", "white-box"]]


def test_a_chain_with_such_a_part_is_marked_too(constructed: Path, tmp_path: Path) -> None:
    _, records = _run(constructed, tmp_path, defenses=[{"chain": ["median", "dear"]}])
    flags = records.set_index("threat")["flags"].fillna("")
    assert "cheap-surface" in flags["white-box"]
    assert "cheap-surface" not in flags["black-box"]


def test_changing_only_the_cheaper_setting_purifies_no_clean_image_again(
    constructed: Path, tmp_path: Path
) -> None:
    """The row is still a new one, because its parameters differ."""
    _run(constructed, tmp_path, defenses=["dear"])
    defenses = [{"name": "dear", "attack_iterations": 2}]
    finished, records = _run(constructed, tmp_path, defenses=defenses, threats=["white-box"])
    assert finished.execution.done["craft"] >= 2
    assert '"attack_iterations":2' in records["defense_config"][0]


def test_a_cheaper_setting_with_other_weights_is_refused(constructed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in_attack changes width, which weights depend on") as caught:
        _plan(constructed, tmp_path, defenses=[{"name": "dear", "spoilt": True}])
    assert f"defense dear ({constructed}" in str(caught.value)


# --- defenses that decide labels ---------------------------------------------------------------------


def test_the_label_error_is_the_error_of_the_labels_that_the_defense_decides(
    constructed: Path, tmp_path: Path
) -> None:
    """In both threats it is the decision on the judged image."""
    planned_run = _plan(constructed, tmp_path / "store", defenses=["decides", "identity"])
    finished = execute_run(planned_run, Silent(), tmp_path / "out")
    decided = sys.modules[planned_run.context.registry.get("defense", "decides").load().__module__].decided
    outcomes = pyarrow.parquet.read_table(tmp_path / "out" / "outcomes.parquet").to_pandas()
    for cell, row in zip(planned_run.plan.cells, finished.records, strict=True):
        if row["defense"] == "identity":
            assert row["label_error"] is None
            continue
        (score,) = cell.scores
        clean, labels = planned_run.context.clean(score.shard)
        rows = outcomes[outcomes["key"] == row["key"]].sort_values("index")
        judged = clean.clone()
        for candidate in score.candidates:
            mask = torch.tensor((rows["route"] == candidate.route).to_numpy())
            judged[mask] = planned_run.context.images(candidate.craft, score.shard)[mask]
        assert (rows["route"] != "clean").any()
        assert rows["decided"].tolist() == decided(judged).tolist()
        assert row["label_error"] == pytest.approx((decided(judged) != labels).float().mean().item())
        assert (decided(judged) != decided(clean)).any()
    records = pd.read_csv(tmp_path / "out" / "records.csv")
    assert records.groupby("defense")["label_error"].count().to_dict() == {"decides": 2, "identity": 0}


def test_a_chain_decides_by_its_last_part(constructed: Path, tmp_path: Path) -> None:
    chains = [{"chain": ["median", "decides"]}, {"chain": ["decides", "median"]}]
    finished, records = _run(constructed, tmp_path, defenses=chains)
    assert not finished.failed
    counts = records.groupby("defense")["label_error"].count().to_dict()
    assert counts == {"median+decides": 2, "decides+median": 0}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("column", "defense decides did not return one int64 label per image"),
        ("list", "defense decides did not return one int64 label per image"),
        ("not-at-all", "decides labels but has no purify_and_decide()"),
    ],
)
def test_an_invalid_decision_fails_the_cell(constructed: Path, tmp_path: Path, how: str, reason: str) -> None:
    _, records = _run(constructed, tmp_path, defenses=["identity", {"name": "decides", "how": how}])
    faulty = records[records["defense"] == "decides"]
    assert (faulty["status"] == "failed").all()
    assert faulty["reason"].str.contains(reason, regex=False).all()
    assert faulty["label_error"].isna().all()
    assert (records[records["defense"] == "identity"]["status"] == "ok").all()


def test_a_defense_that_decides_may_not_return_other_images_to_the_judge(
    constructed: Path, tmp_path: Path
) -> None:
    finished, _ = _run(constructed, tmp_path, defenses=[{"name": "decides", "how": "two-faced"}])
    reasons = {row["reason"] for row in finished.failed}
    assert reasons == {"defense decides: purify_and_decide() gives other images than purify()"}


def test_the_state_of_earlier_calls_does_not_help_a_purifier_when_it_is_judged(
    constructed: Path, tmp_path: Path
) -> None:
    _, records = _run(constructed, tmp_path, defenses=["identity", "keeps"], threats=["black-box"])
    errors = records.set_index("defense")["error"]
    assert errors["identity"] > 0.5
    assert errors["keeps"] == errors["identity"]


def test_the_error_of_a_failing_cheaper_setting_names_its_plugin(constructed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"breaks-in-attack .*in_attack raised RuntimeError.*no cheaper way"):
        _run(constructed, tmp_path, defenses=["breaks-in-attack"])


def test_a_cheaper_setting_withholds_the_claim(constructed: Path, tmp_path: Path) -> None:
    attacks = [{"name": "pgd", "eps": 0.1, "steps": 10}]
    _run(constructed, tmp_path, defenses=["identity", "dear"], threats=["white-box"], attacks=attacks)
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("defense")
    assert board.loc["dear", "bound"] == "≥"
    assert pd.isna(board.loc["dear", "rank"])
    assert board.loc["identity", "rank"] == 1


# --- gates, sizes, numbers of classes, expectation over draws ----------------------------------------


def test_a_gate_that_every_defense_passes_is_refused(constructed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hard-task.*a gate of 1 is too wide"):
        _run(constructed, tmp_path, defenses=["hard-task"], threats=["black-box"])


def test_the_gate_may_differ_by_data_set(
    constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.plan.resolve._WIDEST_GATE", 1.0)
    datasets = [{"name": "digits", "n": 40}, {"name": "dimmed", "n": 40, "light": 0.9}]
    _, records = _run(
        constructed, tmp_path, datasets=datasets, defenses=["hard-task", "constant"], threats=["black-box"]
    )
    flags = records.set_index(["defense", "dataset"])["flags"].fillna("").to_dict()
    doubted = {row: "purifier-not-trained" in text.split() for row, text in flags.items()}
    dimmed = 'dimmed {"light":0.9}'
    assert doubted == {
        ("hard-task", "digits"): False,
        ("hard-task", dimmed): True,
        ("constant", "digits"): True,
        ("constant", dimmed): True,
    }


def test_a_target_with_another_number_of_classes_fails_its_cells(constructed: Path, tmp_path: Path) -> None:
    _, records = _run(constructed, tmp_path, targets=["eleven", "nearest-mean"])
    faulty = records[records["target"] == "eleven"]
    assert (faulty["status"] == "failed").all()
    reason = "classifier eleven returns scores of shape (1, 11) for one image, but digits has 10 classes"
    assert (faulty["reason"] == reason).all()
    assert (records[records["target"] == "nearest-mean"]["status"] == "ok").all()
    assert not list((tmp_path / "store").glob("train-target/eleven/*"))


def test_a_classifier_that_is_refused_leaves_no_checkpoint(
    constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.api.training.CHECKPOINT_SECONDS", 0)
    _run(constructed, tmp_path, targets=["eleven"], threats=["black-box"])
    assert not list((tmp_path / "store").glob("checkpoint/*/*"))


def test_a_source_with_another_number_of_classes_fails_the_defenses_trained_with_it(
    constructed: Path, tmp_path: Path
) -> None:
    datasets = [{"name": "taught-by-eleven", "n": 10}]
    _, records = _run(
        constructed, tmp_path, datasets=datasets, defenses=["identity", "shift"], source="default"
    )
    status = records.groupby("defense")["status"].agg(set).to_dict()
    assert status == {"identity": {"ok"}, "shift": {"failed"}}
    reasons = set(records[records["defense"] == "shift"]["reason"])
    assert reasons == {
        "classifier eleven returns scores of shape (1, 11) for one image, but taught-by-eleven has 10 classes"
    }


def test_images_of_an_unsupported_size_fail_the_cells_of_the_defense(
    constructed: Path, tmp_path: Path
) -> None:
    datasets = [{"name": "framed", "n": 10}]
    _, records = _run(constructed, tmp_path, datasets=datasets, defenses=["identity", "ape-gan", "square-28"])
    reasons = records.groupby("defense")["reason"].agg(lambda texts: set(texts.dropna())).to_dict()
    assert (records[records["defense"] == "identity"]["status"] == "ok").all()
    assert (records[records["defense"] != "identity"]["status"] == "failed").all()
    assert reasons["square-28"] == {"square-28 takes 28×28 images, got 30×30"}
    (reason,) = reasons["ape-gan"]
    assert reason.startswith("ape-gan takes 28×28 or 32×32 images")
    assert reason.endswith("got 30×30")


def _white_box(eot: int | None) -> list[Any]:
    return ["white-box" if eot is None else {"name": "white-box", "eot": eot}]


def test_eot_is_in_the_row_and_in_the_number_of_purifications(constructed: Path, tmp_path: Path) -> None:
    purifies: dict[int, dict[str, float]] = {}
    for eot in (1, 3):
        _, records = _run(constructed, tmp_path, defenses=["noisy", "median"], threats=_white_box(eot))
        assert {json.loads(config)["eot"] for config in records["threat_config"]} == {eot}
        purifies[eot] = dict(zip(records["defense"], records["purifies"], strict=True))
        flags = dict(zip(records["defense"], records["flags"].fillna(""), strict=True))
        assert "few-draws" in flags["noisy"].split()
        assert "few-draws" not in flags["median"].split()
    assert purifies[1]["noisy"] == purifies[1]["median"] > 0
    assert purifies[3]["noisy"] == 3 * purifies[1]["noisy"]
    assert purifies[3]["median"] == purifies[1]["median"]


def test_ten_draws_are_the_default_and_do_not_change_attacks_on_a_deterministic_defense(
    constructed: Path, tmp_path: Path
) -> None:
    _, records = _run(constructed, tmp_path, threats=_white_box(None))
    assert json.loads(records["threat_config"][0])["eot"] == 10
    assert not records["flags"].fillna("").str.contains("few-draws").any()
    finished, again = _run(constructed, tmp_path, threats=_white_box(2))
    assert finished.execution.done == {}
    assert again["error"].tolist() == records["error"].tolist()


def test_an_eot_below_one_is_refused(registry: Registry) -> None:
    with pytest.raises(UserError, match=r"threat white-box: eot = 0: .*greater than or equal to 1"):
        load_grid(GRID | {"threats": _white_box(0)}, registry)


def test_a_random_defense_is_judged_on_other_draws_than_those_that_select(
    constructed: Path, tmp_path: Path
) -> None:
    """Clean images too: the draw that selects the worst case must not be the draw that counts."""
    planned_run = _plan(constructed, tmp_path / "store", defenses=["noisy", "identity"])
    execute_run(planned_run, Silent(), tmp_path / "out")
    for cell in planned_run.plan.cells:
        (score,) = cell.scores
        selecting, judged = (
            planned_run.context.tensors(task)["images"] for task in (score.clean, *score.clean_judged)
        )
        assert torch.equal(selecting, judged) == (cell.purifier.name == "identity")
